//! Why an image was not built. Nothing is published then, and what was half made is removed.

/// Failure of a build.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The recipe, or what the host does for it.
    #[error(transparent)]
    Host(#[from] vm_images::build::Error),
    /// Somebody ended it.
    #[error("the build was cancelled")]
    Cancelled,
    /// The image store.
    #[error(transparent)]
    Store(#[from] vm_images::store::Error),
    /// The disk overlay of the guest.
    #[error(transparent)]
    Disk(#[from] vm_images::qcow2::Error),
    /// The hypervisor or the agent in the guest.
    #[error("the guest under construction failed")]
    Hypervisor(#[from] migration::hypervisor::Error),
    /// A script in the guest failed.
    #[error("{step} failed in the guest with exit code {exit_code}; its last words:\n{words}")]
    Guest {
        /// What was being done.
        step: &'static str,
        /// The script's exit code.
        exit_code: i32,
        /// The end of its output.
        words: String,
    },
    /// The service does not answer as its recipe says.
    #[error("the service under construction did not {wanted}: {found}")]
    Service {
        /// What it should have done.
        wanted: String,
        /// What it did.
        found: String,
    },
    /// The recipe of a Service VM names a parent that is no base.
    #[error("recipe '{recipe}' has the parent '{parent}', which is no recipe of a base image")]
    Parent {
        /// The recipe.
        recipe: String,
        /// What it names.
        parent: String,
    },
    /// A file cannot be read.
    #[error("cannot read {path}")]
    File {
        /// The file.
        path: std::path::PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The recipes are nowhere.
    #[error("no recipes found in {0}; name their directory with --recipes")]
    NoRecipes(String),
}
