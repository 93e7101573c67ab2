//! A folder on the disk that the build uses: never one that is memory in truth, or flushes would cost nothing.
//!
//! Owns its making and its removal, also when a bench fails.

use std::path::{Path, PathBuf};

/// A folder that is removed when dropped.
pub(crate) struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// Makes a fresh folder beside the build's output.
    pub(crate) fn new(name: &str) -> std::io::Result<Self> {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("bench-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path)?;
        Ok(Self { path })
    }

    /// The folder.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            // Not worth failing a bench over, but worth knowing.
            let _ = std::io::Write::write_fmt(
                &mut std::io::stderr(),
                format_args!("{} could not be removed: {error}\n", self.path.display()),
            );
        }
    }
}
