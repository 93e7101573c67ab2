//! The two small files of the HTTP interface: the token and the address, both for the owner alone (mode 0600).
//!
//! Owns how they are made (whole or not at all) and read. Refuses a token that others could read, and tokens that are
//! short enough to be guessed. The token never appears in an error, a log or a `Debug` text.

use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

/// Fewest characters of a token that somebody chose.
const SHORTEST: usize = 16;

/// The secret that opens everything but health.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(hidden)")
    }
}

/// Why there is no token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The file cannot be read or made.
    #[error("token file {path}: {why}")]
    File {
        /// Its path.
        path: String,
        /// What the system said, and the way out.
        why: String,
    },
    /// The text is no usable token.
    #[error(
        "the token of {origin} is refused: it must be one line of at least {SHORTEST} printable characters; `openssl rand -hex 32` makes one"
    )]
    Weak {
        /// `ORCH_TOKEN` or the file's path.
        origin: String,
    },
}

impl Token {
    /// Takes a token that somebody chose.
    ///
    /// # Errors
    /// [`TokenError::Weak`] when it is short or not printable.
    pub fn given(text: &str, origin: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        match text.len() >= SHORTEST && text.len() <= 512 && text.bytes().all(|b| b.is_ascii_graphic()) {
            true => Ok(Self(text.to_owned())),
            false => Err(TokenError::Weak { origin: origin.to_owned() }),
        }
    }

    /// Reads the token file.
    ///
    /// # Errors
    /// [`TokenError::File`] when it is missing, unreadable, or readable by others.
    pub fn read(path: &Path) -> Result<Self, TokenError> {
        let file = |why: String| TokenError::File { path: path.display().to_string(), why };
        let meta = std::fs::metadata(path).map_err(|e| file(e.to_string()))?;
        let mode = meta.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(file(format!(
                "others may read it (mode {mode:03o}); run chmod 600 on it, or remove it for a new one"
            )));
        }
        let text = std::fs::read_to_string(path).map_err(|e| file(e.to_string()))?;
        Self::given(&text, &path.display().to_string())
    }

    /// The token from `ORCH_TOKEN` if given, else from the file, which is made with 32 random bytes when it is missing.
    ///
    /// # Errors
    /// [`TokenError`] when there is a token that cannot be used, or none can be made.
    pub fn load_or_create(path: &Path, from_environment: Option<&str>) -> Result<Self, TokenError> {
        if let Some(text) = from_environment.filter(|t| !t.is_empty()) {
            return Self::given(text, "ORCH_TOKEN");
        }
        if path.exists() {
            return Self::read(path);
        }
        let file = |why: String| TokenError::File { path: path.display().to_string(), why };
        let mut bytes = [0_u8; 32];
        getrandom::fill(&mut bytes).map_err(|e| file(format!("no randomness: {e}")))?;
        let made = write_private(path, &hex::encode(bytes), false).map_err(|e| file(e.to_string()))?;
        // Whoever was first has made it; both then use the same one.
        match made {
            true => Ok(Self(hex::encode(bytes))),
            false => Self::read(path),
        }
    }

    /// The token's text, for an `Authorization` header.
    #[must_use]
    pub fn secret(&self) -> &str {
        &self.0
    }

    /// Whether a presented text is this token, in a time that does not depend on where they differ or on their lengths.
    pub(super) fn is(&self, presented: &str) -> bool {
        same(&self.0, presented)
    }

    /// What the board's cookie holds: made from the token, but not the token.
    pub(super) fn board_cookie(&self) -> String {
        hex::encode(Sha256::digest(format!("orch board cookie v1\n{}", self.0)))
    }
}

/// Constant-time comparison of two texts of any length.
pub(super) fn same(a: &str, b: &str) -> bool {
    Sha256::digest(a.as_bytes()).ct_eq(&Sha256::digest(b.as_bytes())).into()
}

/// Writes a file of mode 0600, whole or not at all. Without `replace` an existing file stays, and the answer is `false`.
fn write_private(path: &Path, text: &str, replace: bool) -> std::io::Result<bool> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.as_file().set_permissions(std::fs::Permissions::from_mode(0o600))?;
    writeln!(file, "{text}")?;
    file.as_file().sync_all()?;
    if replace {
        return file.persist(path).map(|_| true).map_err(|e| e.error);
    }
    match file.persist_noclobber(path) {
        Ok(_) => Ok(true),
        Err(e) if e.error.kind() == std::io::ErrorKind::AlreadyExists => Ok(false),
        Err(e) => Err(e.error),
    }
}

/// Writes where a running supervisor listens, for commands on the same machine. A wildcard address is written as loopback.
///
/// # Errors
/// What the system said.
pub fn write_address(path: &Path, addr: SocketAddr) -> std::io::Result<()> {
    let reachable = match (addr.ip().is_unspecified(), addr) {
        (false, addr) => addr,
        (true, SocketAddr::V4(v4)) => SocketAddr::from(([127, 0, 0, 1], v4.port())),
        (true, SocketAddr::V6(v6)) => SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], v6.port())),
    };
    write_private(path, &format!("http://{reachable}"), true).map(drop)
}

/// Reads where a supervisor listens; `None` when no file says so.
#[must_use]
pub fn read_address(path: &Path) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    Some(text.trim().to_owned()).filter(|t| t.starts_with("http://"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_made_once_for_the_owner_alone() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join("token");
        let first = Token::load_or_create(&path, None).expect("made");
        assert_eq!(first.secret().len(), 64);
        assert_eq!(std::fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        assert_eq!(Token::load_or_create(&path, None).expect("read"), first);
        assert_eq!(std::fs::read_dir(dir.path()).expect("readable").count(), 1, "no temporary file is left");
        assert_eq!(format!("{first:?}"), "Token(hidden)");
        let given = Token::load_or_create(&path, Some("a-token-of-my-own")).expect("given");
        assert_eq!(given.secret(), "a-token-of-my-own");
    }

    #[test]
    fn tokens_that_are_short_or_open_to_others_are_refused_without_being_shown() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join("token");
        for weak in ["sesame", "sesame sesame sesame", "sesame\u{e9}sesamesesame"] {
            let err = Token::load_or_create(&path, Some(weak)).expect_err(weak).to_string();
            assert!(err.contains("ORCH_TOKEN") && !err.contains("sesame"), "{err}");
        }
        std::fs::write(&path, "sesame-sesame-sesame\n").expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("changed");
        let err = Token::load_or_create(&path, None).expect_err("open").to_string();
        assert!(err.contains("chmod 600") && !err.contains("sesame-"), "{err}");
        let err = Token::load_or_create(&dir.path().join("no/token"), None).expect_err("no folder").to_string();
        assert!(err.contains("no/token"), "{err}");
    }

    #[test]
    fn the_address_is_written_so_that_it_can_be_reached() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join("http.addr");
        assert_eq!(read_address(&path), None);
        write_address(&path, "0.0.0.0:8".parse().expect("valid")).expect("written");
        assert_eq!(read_address(&path).as_deref(), Some("http://127.0.0.1:8"));
        write_address(&path, "127.0.0.9:9".parse().expect("valid")).expect("replaced");
        assert_eq!(read_address(&path).as_deref(), Some("http://127.0.0.9:9"));
    }
}
