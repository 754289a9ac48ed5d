# `make demo` and `make test` are all that anyone needs to type; both install what is missing first.
.PHONY: demo mesh-demo handoff-demo test bench bench-mesh bench-handoff audit packages lint

# Image builds are kept here, outside the checkout, under the hash of their recipe.
export CLOUDLET_NODE__IMAGE_STORE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/cloudlet/images

as_root := $(if $(filter-out 0,$(shell id -u)),sudo)

demo: packages
	cargo build --release --locked -p node -p handheld
	target/release/cloudlet demo

test: packages lint
	.ci/checks/no-sockets
	.ci/checks/no-sockets --self-check
	cargo build --locked -p node -p handheld
	target/debug/cloudlet image build all
	cargo test --workspace --locked

# Cached VM against cold boot, memory of idle clones, twenty at once; about 12 minutes, most of them cold boots.
bench: packages
	cargo build --release --locked -p node -p handheld
	target/release/cloudlet image build all
	cargo bench --locked -p node --bench ready

# Five cloudlets and three handhelds in the lab, on real multicast and TLS; two minutes, as root.
mesh-demo: packages
	cargo build --release --locked -p node -p handheld -p simulations
	target/release/cloudlet image build all
	$(as_root) env CLOUDLET_NODE__IMAGE_STORE=$(CLOUDLET_NODE__IMAGE_STORE) target/release/mesh-demo

# A speech service moves between two vehicles in the lab while a handheld uses it; three minutes, as root.
handoff-demo: packages
	cargo build --release --locked -p node -p handheld -p simulations
	target/release/cloudlet image build all
	$(as_root) env CLOUDLET_NODE__IMAGE_STORE=$(CLOUDLET_NODE__IMAGE_STORE) target/release/handoff-demo

# The mesh beside serf, in the lab: idle bytes, changes, crashes, a split of ten minutes; about 35 minutes, as root.
bench-mesh: packages
	command -v serf >/dev/null || $(as_root) env DEBIAN_FRONTEND=noninteractive \
	  apt-get install -y -q --no-install-recommends serf
	cargo build --release --locked -p mesh --example mesh_node
	cargo build --release --locked -p simulations --bin bench-mesh
	$(as_root) target/release/bench-mesh --json simulations/reports/bench-mesh/all.json

# A running Service VM moves to and fro between two cloudlets in the lab, and by QEMU and rsync, over links of several
# rates; then a guest that writes to memory or disk, over one. Some four hours, as root; goes on
# with what the files of results lack: to measure all of it anew, remove them first. For less:
# target/release/bench-handoff --help.
bench_handoff = $(as_root) env CLOUDLET_NODE__IMAGE_STORE=$(CLOUDLET_NODE__IMAGE_STORE) target/release/bench-handoff
bench-handoff: packages
	command -v rsync >/dev/null || $(as_root) env DEBIAN_FRONTEND=noninteractive \
	  apt-get install -y -q --no-install-recommends rsync
	cargo build --release --locked -p node -p handheld -p simulations
	target/release/cloudlet image build all
	$(bench_handoff) --workloads memory-1,memory-4,memory-16,disk --rates 10 --loss 0 --moves 2 \
	  --json simulations/reports/bench-handoff/writer.json --resume
	$(bench_handoff) --json simulations/reports/bench-handoff/all.json --resume

lint:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked --quiet

# Bans, licences, sources and advisories of every dependency.
audit: packages
	.ci/checks/audit
	.ci/checks/audit --self-check

packages:
	node/packaging/system-packages
