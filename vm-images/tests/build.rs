//! The host's part of building, with recipes that are made up but real tools.

#![allow(
    clippy::unwrap_used,
    reason = "tests may panic; clippy recognises only the functions marked as tests"
)]

mod support;
#[path = "support/tiny.rs"]
mod tiny;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use support::*;
use tiny::Tiny;
use vm_images::build::recipe::{Plan, names};
use vm_images::build::{Cancel, Error, Recipe, payload, root_disk};
use vm_images::{Digest, ImageId, Role, Store, qcow2};

const BASE: &str = r#"
kind = "base"
name = "base"
description = "a test's base"
[hardware]
machine = "pc-q35-10.0"
cpu_model = "Nehalem"
memory_mib = 64
vcpus = 1
command_line = "root=/dev/vda"
[root]
suite = "bookworm"
disk_mib = 8
include = ["systemd", "udev"]
customize = "customize"
os_id = "debian"
os_version = "12"
architecture = "x86_64"
[prepare]
script = "prepare"
limit_s = 10
[ready]
limit_s = 10
"#;

const SERVICE: &str = r#"
kind = "service"
name = "echo"
parent = "base"
description = "a test's service"
[service]
id = "echo"
version = "1"
description = "answers"
port = 80
health_path = "/healthz"
needs_memory_mib = 64
needs_cpu_millis = 500
max_users = 2
[payload]
debs = ["libfoo1", "foo-data"]
build = "build-payload"
disk_mib = 4
[install]
script = "install"
limit_s = 10
[[warm_up]]
method = "POST"
path = "/echo"
body = "/usr/share/x.wav"
times = 2
[prepare]
script = "prepare"
limit_s = 10
"#;

const BUILD_ROOT: &str = r#"#!/bin/sh
set -eu
echo "build-root: $SUITE $INCLUDE $CUSTOMIZE $DISK_MIB" >&2
truncate -s "${DISK_MIB}M" "$2/disk.raw"
printf content | dd of="$2/disk.raw" conv=notrunc status=none
for file in kernel initrd packages.status; do basename "$1" > "$2/$file"; done
"#;

struct Recipes(tempfile::TempDir);

impl Recipes {
    fn new() -> Self {
        let recipes = Self(tempfile::tempdir().unwrap());
        recipes.write("base/recipe.toml", BASE);
        recipes.write("echo/recipe.toml", SERVICE);
        for script in ["base/customize", "base/prepare", "echo/prepare", "echo/install"] {
            recipes.write(script, "#!/bin/sh\n");
        }
        recipes.write("build-root", BUILD_ROOT);
        recipes.write(
            "download-debs",
            "#!/bin/sh\nset -eu\nmkdir \"$2\"\ncp \"$1\" \"$2/status\"\necho \"$3 $4 $5\" > \"$2/asked\"\n",
        );
        recipes.write(
            "echo/build-payload",
            "#!/bin/sh\nset -eu\ntest -f install\ncp \"$1/debs/asked\" \"$1/server\"\n",
        );
        recipes
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Writes an executable file.
    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    fn load(&self, name: &str) -> Result<Recipe, Error> {
        Recipe::load(self.path(), name)
    }

    fn root_disk(
        &self,
        store: &Store,
        cancel: &Cancel,
    ) -> (vm_images::store::Draft, Vec<String>, Result<(), Error>) {
        let recipe = self.load("base").unwrap();
        let Plan::Base(base) = &recipe.plan else { panic!("the base is none") };
        let draft = store.begin(None).unwrap();
        let mut said = Vec::new();
        let result = root_disk(&recipe, base, &draft, cancel, &mut |line| said.push(line.to_owned()));
        (draft, said, result)
    }

    fn payload(&self, directory: &Path) -> Result<PathBuf, Error> {
        let recipe = self.load("echo").unwrap();
        let Plan::Service(service) = &recipe.plan else { panic!("the service is none") };
        let status = self.write("status", "Package: base-files\n");
        let result = payload(&recipe, service, &status, "bookworm", directory, &Cancel::new(), &mut |_| {});
        std::fs::remove_file(status).unwrap();
        result
    }
}

#[test]
fn the_recipes_of_this_release_can_be_built() {
    let recipes = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes");
    let names = names(&recipes).unwrap();
    assert!(names.contains(&"base".to_owned()) && names.contains(&"speech".to_owned()), "{names:?}");
    for name in names {
        let recipe = Recipe::load(&recipes, &name).unwrap_or_else(|error| panic!("{}", told(&error)));
        if let Plan::Service(service) = &recipe.plan {
            Recipe::load(&recipes, &service.parent).unwrap();
        }
        recipe.digest(None, "").unwrap();
    }
}

#[test]
fn a_root_disk_becomes_the_parts_of_a_base_image() {
    let (recipes, dir) = (Recipes::new(), tempfile::tempdir().unwrap());
    let (draft, said, result) = recipes.root_disk(&open(dir.path()), &Cancel::new());
    result.unwrap_or_else(|error| panic!("{}", told(&error)));
    assert_eq!(said, ["build-root: bookworm systemd,udev customize 8", "converting the disk to qcow2"]);
    assert_eq!(qcow2::virtual_size(&draft.path(Role::Disk)).unwrap(), 8 << 20);
    assert_eq!(qcow2::read_header(&draft.path(Role::Disk)).unwrap().backing, None);
    for role in [Role::Kernel, Role::Initrd, Role::PackageStatus] {
        assert_eq!(std::fs::read(draft.path(role)).unwrap(), b"base\n");
    }
    assert_eq!(std::fs::read_dir(draft.scratch()).unwrap().count(), 0);
}

#[test]
fn a_payload_has_packages_what_the_recipe_adds_and_the_installer() {
    let (recipes, dir) = (Recipes::new(), tempfile::tempdir().unwrap());
    let disk = recipes.payload(dir.path()).unwrap_or_else(|error| panic!("{}", told(&error)));
    assert_eq!(std::fs::metadata(&disk).unwrap().len(), 4 << 20);
    let cat = |path: &str| {
        let request = format!("cat {path}");
        let output = Command::new("/usr/sbin/debugfs").args(["-R", &request]).arg(&disk).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(cat("/server"), "bookworm libfoo1 foo-data\n");
    assert_eq!(cat("/debs/status"), "Package: base-files\n");
    assert_eq!(cat("/install"), "#!/bin/sh\n");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "only the disk is left");
}

#[test]
fn a_payload_that_does_not_fit_is_told_as_that() {
    let recipes = Recipes::new();
    for mib in [3, 6] {
        // More than the disk, and less than the disk but more than its file system leaves.
        let bytes = if mib == 6 { 6 << 20 } else { (4 << 20) - 20_000 };
        let script = format!("#!/bin/sh\nhead -c {bytes} /dev/urandom > \"$1/large\"\n");
        recipes.write("echo/build-payload", &script);
        let dir = tempfile::tempdir().unwrap();
        let said = recipes.payload(dir.path()).unwrap_err().to_string();
        assert!(said.starts_with("the payload of 'echo' has "), "{said}");
        assert!(said.contains("does not fit on its disk of 4 MiB; raise disk_mib under [payload]"), "{said}");
    }
}

#[test]
fn a_failing_script_is_quoted() {
    let (recipes, dir) = (Recipes::new(), tempfile::tempdir().unwrap());
    let script =
        "#!/bin/sh\nfor i in $(seq 30); do echo \"line $i\" >&2; done\necho \"E: no mirror\" >&2\nexit 7\n";
    recipes.write("build-root", script);
    let store = open(dir.path());
    let (draft, said, result) = recipes.root_disk(&store, &Cancel::new());
    let words = (12..=30).map(|i| format!("line {i}\n")).collect::<String>() + "E: no mirror";
    assert_eq!(
        result.unwrap_err().to_string(),
        format!("build-root failed (exit status: 7); its last words:\n{words}")
    );
    assert_eq!(said.len(), 31);
    drop(draft);
    assert_eq!(std::fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
}

#[test]
fn a_stopped_build_leaves_no_process_behind() {
    let (recipes, dir) = (Recipes::new(), tempfile::tempdir().unwrap());
    // A grandchild that ignores the polite request, as some tools do.
    recipes.write(
        "build-root",
        "#!/bin/sh\n(trap '' TERM; sh -c 'echo child $PPID' >&2; while :; do sleep 1; done) &\nwait\n",
    );
    let cancel = Cancel::new();
    let recipe = recipes.load("base").unwrap();
    let Plan::Base(base) = &recipe.plan else { panic!("the base is none") };
    let draft = open(dir.path()).begin(None).unwrap();
    let mut child = None;
    let said = root_disk(&recipe, base, &draft, &cancel, &mut |line| {
        if let Some(pid) = line.strip_prefix("child ") {
            child = Some(pid.to_owned());
            cancel.cancel();
        }
    });
    assert_eq!(said.unwrap_err().to_string(), "build-root was stopped");
    let state = std::fs::read_to_string(format!("/proc/{}/stat", child.unwrap()));
    // A zombie that nobody has reaped yet is dead, too.
    assert!(state.as_ref().map_or(true, |stat| stat.contains(") Z ")), "{state:?}");
    std::fs::remove_dir(draft.scratch().join("root")).unwrap();
    let said = root_disk(&recipe, base, &draft, &cancel, &mut |line| panic!("started again: {line}"));
    assert_eq!(said.unwrap_err().to_string(), "build-root was stopped");
}

#[test]
fn a_script_that_leaves_a_child_with_the_pipe_does_not_hang() {
    let (recipes, dir) = (Recipes::new(), tempfile::tempdir().unwrap());
    recipes.write("build-root", &(BUILD_ROOT.to_owned() + "sleep 1000 &\n"));
    let store = open(dir.path());
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(|| sender.send(recipes.root_disk(&store, &Cancel::new()).2.is_ok()));
        assert_eq!(receiver.recv_timeout(Duration::from_secs(20)), Ok(true));
    });
}

#[test]
fn a_full_disk_while_building_says_how_much_was_needed() {
    let Some(tiny) = Tiny::mount("size=2m") else { return };
    let recipes = Recipes::new();
    recipes.write("build-root", "#!/bin/sh\nset -eu\ndd if=/dev/zero of=\"$2/disk.raw\" bs=1M count=4\n");
    let store = open(tiny.path());
    let (draft, _, result) = recipes.root_disk(&store, &Cancel::new());
    let said = told(&result.unwrap_err());
    assert!(
        said.starts_with(&format!("no space left for {}", draft.scratch().join("root").display())),
        "{said}"
    );
    assert!(said.contains("(8388608 bytes were needed, 0 are free); nothing was published"), "{said}");
    drop(draft);
    assert_eq!(std::fs::read_dir(tiny.path().join("tmp")).unwrap().count(), 0);
}

#[test]
fn mistakes_in_recipes_are_named_with_file_and_line_or_field() {
    let recipes = Recipes::new();
    let root = recipes.path().canonicalize().unwrap();
    let said = |name: &str, from: &str, to: &str| {
        let original = if name == "base" { BASE } else { SERVICE };
        assert!(original.contains(from), "{from}");
        recipes.write(&format!("{name}/recipe.toml"), &original.replacen(from, to, 1));
        let said = told(&recipes.load(name).unwrap_err());
        recipes.write(&format!("{name}/recipe.toml"), original);
        let file = root.join(name).join("recipe.toml").display().to_string();
        said.strip_prefix(&file).unwrap_or_else(|| panic!("{said}")).to_owned()
    };
    assert!(said("base", "vcpus = 1", "vcpu = 1").starts_with(":9: unknown field `vcpu`"));
    assert!(said("base", "memory_mib = 64", "memory_mib = \"64\"").starts_with(":8: invalid type: string"));
    assert!(said("base", "[ready]", "[ready").starts_with(":"));
    assert!(said("base", "limit_s = 10\n", "").contains("missing field `limit_s`"));
    assert_eq!(
        said("base", "kind = \"base\"", "kind = \"bass\""),
        ":2: unknown variant `bass`, expected `base` or `service`"
    );
    assert_eq!(
        said("base", "Nehalem", "max"),
        " asks for what no image can have: the manifest's hardware.cpu_model is not acceptable: \
         'max' differs between machines; name a model such as Nehalem"
    );
    assert_eq!(
        said("base", "\"udev\"", "\"-oroot=x\""),
        ": root.include: '-oroot=x' is not a name that Debian uses"
    );
    assert_eq!(said("base", "disk_mib = 8", "disk_mib = 0"), ": root.disk_mib: 1 to 1048576 is wanted");
    assert_eq!(
        said("base", "\"customize\"", "\"../../etc/passwd\""),
        ": root.customize: '../../etc/passwd' is not the name of a file beside recipe.toml"
    );
    assert_eq!(
        said("echo", "script = \"install\"", "script = \"instal\""),
        ": install.script: there is no file 'instal' beside recipe.toml"
    );
    assert_eq!(
        said("echo", "name = \"echo\"", "name = \"other\""),
        ": name: 'other' in a directory named 'echo'; they must be the same"
    );
    assert!(
        said("echo", "\"/usr/share/x.wav\"", "\"x.wav\"").starts_with(": warm_up.body: an absolute path")
    );
    assert!(said("echo", "port = 80", "port = 0").contains("service.port is not acceptable: 0 is no port"));
    assert_eq!(
        told(&recipes.load("speach").unwrap_err()),
        format!("there is no recipe 'speach' in {}; there are: base, echo", root.display())
    );
}

#[test]
fn a_recipes_digest_changes_with_everything_that_counts_and_nothing_else() {
    let recipes = Recipes::new();
    let digest = |parent, context| recipes.load("base").unwrap().digest(parent, context).unwrap();
    let first = digest(None, "tcg");
    let parent = Some(ImageId(Digest::of(b"parent")));
    assert_ne!(digest(parent, "tcg"), first);
    assert_ne!(digest(None, "kvm"), first);

    let changes: [&dyn Fn(); 5] = [
        &|| drop(recipes.write("base/overlay/etc/file", "1")),
        &|| drop(recipes.write("base/overlay/etc/file", "2")),
        &|| {
            std::fs::set_permissions(
                recipes.path().join("base/overlay/etc/file"),
                std::fs::Permissions::from_mode(0o644),
            )
            .unwrap()
        },
        &|| std::os::unix::fs::symlink("file", recipes.path().join("base/overlay/etc/link")).unwrap(),
        &|| drop(recipes.write("build-root", "#!/bin/sh\n")),
    ];
    let mut seen = vec![first];
    for change in changes {
        change();
        let now = digest(None, "tcg");
        assert!(!seen.contains(&now));
        seen.push(now);
    }
    // Another recipe, other permissions for others, and where it all lies do not count.
    recipes.write("echo/prepare", "#!/bin/sh\nsync\n");
    std::fs::set_permissions(recipes.path().join("base/prepare"), std::fs::Permissions::from_mode(0o700))
        .unwrap();
    assert_eq!(digest(None, "tcg"), seen[5]);
}

#[test]
#[ignore = "downloads 150 MB from a Debian mirror and takes two minutes; run it with --run-ignored all"]
fn the_real_recipes_give_a_root_disk_and_a_payload() {
    let recipes = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes");
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (cancel, mut progress) = (Cancel::new(), |line: &str| eprintln!("{line}"));

    let recipe = Recipe::load(&recipes, "base").unwrap();
    let Plan::Base(base) = &recipe.plan else { panic!("the base is none") };
    let draft = store.begin(None).unwrap();
    root_disk(&recipe, base, &draft, &cancel, &mut progress)
        .unwrap_or_else(|error| panic!("{}", told(&error)));
    let check = Command::new("qemu-img").arg("check").arg(draft.path(Role::Disk)).status().unwrap();
    assert!(check.success());
    assert_eq!(qcow2::virtual_size(&draft.path(Role::Disk)).unwrap(), base.root.disk_mib << 20);
    let status = std::fs::read_to_string(draft.path(Role::PackageStatus)).unwrap();
    assert!(status.contains("Package: qemu-guest-agent"));

    let recipe = Recipe::load(&recipes, "speech").unwrap();
    let Plan::Service(service) = &recipe.plan else { panic!("the service is none") };
    let (status, scratch) = (draft.path(Role::PackageStatus), draft.scratch());
    let disk = payload(&recipe, service, &status, &base.root.suite, &scratch, &cancel, &mut progress)
        .unwrap_or_else(|error| panic!("{}", told(&error)));
    let listing = Command::new("/usr/sbin/debugfs").args(["-R", "ls -p /"]).arg(&disk).output().unwrap();
    let listing = String::from_utf8(listing.stdout).unwrap();
    for name in ["/install/", "/debs/", "/speechd/"] {
        assert!(listing.contains(name), "{listing}");
    }
}
