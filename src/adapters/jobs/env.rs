//! The environment of a job, made from nothing.
//!
//! Owns the allow-list: search path, language, time zone, and private folders. Nothing of the supervisor's environment
//! is passed on, since that is where its secrets are. What an agent or a gate needs besides is added by its caller.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

/// Search path when the supervisor has none.
const FALLBACK_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Folders that belong to one job (or one workspace's jobs) alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrivateDirs {
    /// `HOME`; the XDG folders are inside.
    pub home: PathBuf,
    /// `TMPDIR`.
    pub tmp: PathBuf,
    /// `XDG_RUNTIME_DIR`.
    pub run: PathBuf,
}

impl PrivateDirs {
    /// The usual three folders below `root`; nothing is made yet.
    #[must_use]
    pub fn under(root: &Path) -> Self {
        Self { home: root.join("home"), tmp: root.join("tmp"), run: root.join("run") }
    }

    /// All of them, for the list of what the job may write.
    #[must_use]
    pub fn all(&self) -> Vec<PathBuf> {
        vec![self.home.clone(), self.tmp.clone(), self.run.clone()]
    }

    /// Makes them, closed to other users, and gives them to `uid` when the job runs as somebody else. A link in their
    /// place is refused: whoever put it there chose where it leads.
    ///
    /// # Errors
    /// When they cannot be made or given away, or something else is in their place.
    pub fn create(&self, uid: Option<u32>) -> io::Result<()> {
        for dir in [&self.home, &self.tmp, &self.run] {
            if let Some(parent) = dir.parent() {
                DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
            }
            match DirBuilder::new().mode(0o700).create(dir) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
            // By the open folder, not by its name: what was looked at is what is changed.
            let flags = nix::fcntl::OFlag::O_DIRECTORY | nix::fcntl::OFlag::O_NOFOLLOW | nix::fcntl::OFlag::O_CLOEXEC;
            let open = OpenOptions::new().read(true).custom_flags(flags.bits()).open(dir)?;
            open.set_permissions(fs::Permissions::from_mode(0o700))?;
            if uid.is_some() {
                fchown(&open, uid, uid)?;
            }
        }
        Ok(())
    }
}

/// The base environment with the supervisor's own search path.
#[must_use]
pub fn base_env(private: &PrivateDirs) -> BTreeMap<String, String> {
    base_env_with_path(private, &std::env::var("PATH").unwrap_or_else(|_| FALLBACK_PATH.to_owned()))
}

/// The base environment with a configured search path.
#[must_use]
pub fn base_env_with_path(private: &PrivateDirs, path: &str) -> BTreeMap<String, String> {
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    let home = |below: &str| text(private.home.join(below));
    BTreeMap::from([
        ("PATH".to_owned(), path.to_owned()),
        ("LANG".to_owned(), "C.UTF-8".to_owned()),
        ("TZ".to_owned(), "UTC".to_owned()),
        ("HOME".to_owned(), text(private.home.clone())),
        ("TMPDIR".to_owned(), text(private.tmp.clone())),
        ("XDG_CONFIG_HOME".to_owned(), home(".config")),
        ("XDG_CACHE_HOME".to_owned(), home(".cache")),
        ("XDG_DATA_HOME".to_owned(), home(".local/share")),
        ("XDG_STATE_HOME".to_owned(), home(".local/state")),
        ("XDG_RUNTIME_DIR".to_owned(), text(private.run.clone())),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_the_allow_list_and_nothing_else() {
        let env = base_env_with_path(&PrivateDirs::under(Path::new("/jobs/x")), "/usr/bin");
        let names: Vec<&str> = env.keys().map(String::as_str).collect();
        let expected = "HOME LANG PATH TMPDIR TZ XDG_CACHE_HOME XDG_CONFIG_HOME XDG_DATA_HOME XDG_RUNTIME_DIR \
                        XDG_STATE_HOME";
        assert_eq!(names.join(" "), expected);
        assert!(env.iter().filter(|(name, _)| name.starts_with("XDG")).all(|(_, value)| value.starts_with("/jobs/x/")));
    }

    #[test]
    fn private_folders_are_private() {
        let root = tempfile::tempdir().expect("a folder");
        let private = PrivateDirs::under(root.path());
        private.create(None).expect("made");
        for dir in private.all() {
            assert_eq!(fs::metadata(dir).expect("exists").permissions().mode() & 0o777, 0o700);
        }
        private.create(None).expect("made again");
    }

    #[test]
    fn a_link_in_place_of_a_private_folder_is_refused_and_where_it_leads_stays_as_it_is() {
        let root = tempfile::tempdir().expect("a folder");
        let (outside, private) = (root.path().join("outside"), PrivateDirs::under(&root.path().join("job")));
        fs::create_dir(&outside).expect("made");
        fs::set_permissions(&outside, fs::Permissions::from_mode(0o755)).expect("open");
        fs::create_dir(root.path().join("job")).expect("made");
        std::os::unix::fs::symlink(&outside, &private.tmp).expect("a link");
        private.create(None).expect_err("a link is no folder");
        assert_eq!(fs::metadata(&outside).expect("exists").permissions().mode() & 0o777, 0o755);
    }
}
