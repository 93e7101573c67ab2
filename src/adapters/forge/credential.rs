//! How git shows a password to an HTTP server: by a helper of ours that reads it from a file when it is asked for.
//!
//! Owns the environment that names the file, and the look at that file. Invariants: the secret stands in no argument, no
//! address, no environment and no log, only in the operator's file and, for a moment, in git; it is shown to that one
//! server and to nobody that it redirects to; a new secret counts from the next command on. Refuses to send it in the
//! clear to another machine.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use orch_domain::variables::{GIT_PASSWORD_FILE, GIT_USERNAME};

/// Longest secret that is one.
const MOST: u64 = 8 << 10;

/// Answers `get` with what the two variables name; there is nothing to store or to erase.
const HELPER: &str = "!f() { test \"$1\" = get || exit 0; printf 'username=%s\\n' \"$ORCH_GIT_USERNAME\"; \
                      printf 'password=%s\\n' \"$(cat \"$ORCH_GIT_PASSWORD_FILE\")\"; }; f";

/// The environment of git commands that talk to `url` as `username`, with the password in a file.
///
/// # Errors
/// In words, when the address takes no password or the file holds none. Neither is quoted beyond its name.
pub fn credential_env(url: &str, username: &str, file: &Path) -> Result<BTreeMap<String, String>, String> {
    let server = server_of(url)?;
    if username.is_empty() || username.chars().any(char::is_control) {
        return Err("`username` is empty or holds control characters".to_owned());
    }
    look_at(file)?;
    let path = file.to_str().ok_or_else(|| format!("the path {} is no plain text", file.display()))?;
    Ok([
        ("GIT_CONFIG_COUNT", "1".to_owned()),
        ("GIT_CONFIG_KEY_0", format!("credential.{server}.helper")),
        ("GIT_CONFIG_VALUE_0", HELPER.to_owned()),
        (GIT_USERNAME, username.to_owned()),
        (GIT_PASSWORD_FILE, path.to_owned()),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect())
}

/// Scheme, host and port of an address that may be shown a password.
fn server_of(url: &str) -> Result<String, String> {
    let plain = "a password needs an `https://` address (or `http://` on this machine's loopback)";
    let (scheme, rest) = url.split_once("://").ok_or(plain)?;
    let host = rest.split('/').next().unwrap_or_default();
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    let loopback = name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
    match scheme {
        "https" if !host.is_empty() => Ok(format!("https://{host}")),
        "http" if loopback => Ok(format!("http://{host}")),
        _ => Err(plain.to_owned()),
    }
}

fn look_at(file: &Path) -> Result<(), String> {
    let wrong = |what: &str| format!("the password file {} {what}", file.display());
    let opened = std::fs::File::open(file).map_err(|error| wrong(&format!("cannot be read: {error}")))?;
    let meta = opened.metadata().map_err(|error| wrong(&format!("cannot be read: {error}")))?;
    if !meta.is_file() {
        return Err(wrong("is no file"));
    }
    if meta.mode() & 0o007 != 0 {
        return Err(wrong("can be read or written by everybody on this machine: `chmod 600` it"));
    }
    let mut text = String::new();
    let read = opened.take(MOST + 1).read_to_string(&mut text);
    read.map_err(|error| wrong(&format!("cannot be read: {error}")))?;
    match text.trim_end_matches('\n') {
        "" => Err(wrong("is empty")),
        secret if secret.contains('\n') || secret.len() as u64 > MOST => {
            Err(wrong("holds more than one line: it holds the password and nothing else"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_password_goes_to_its_server_only_and_never_in_the_clear_over_a_network() {
        assert_eq!(server_of("https://forge.example:3000/a/b.git").expect("a server"), "https://forge.example:3000");
        for good in ["http://127.0.0.1:80/x", "http://localhost/x", "http://[::1]:3000/x"] {
            assert!(server_of(good).is_ok(), "{good}");
        }
        for bad in ["http://forge.example/x", "ssh://forge.example/x", "/srv/x", "git@forge.example:x", "https:///x"] {
            assert!(server_of(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_no_password_file_is_refused_and_never_quoted() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("password");
        let made_up = ["s3", "cret"].concat();
        let said = |text: &str, mode: u32| {
            std::fs::write(&file, text).expect("written");
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).expect("set");
            credential_env("https://forge.example/x", "orch", &file)
        };
        assert!(said("", 0o600).expect_err("refused").contains("is empty"));
        assert!(said(&format!("{made_up}\nmore\n"), 0o600).expect_err("refused").contains("more than one line"));
        let open = said(&made_up, 0o644).expect_err("refused");
        assert!(open.contains("chmod 600") && !open.contains(&made_up), "{open}");
        let env = said(&format!("{made_up}\n"), 0o600).expect("a password");
        assert!(!env.values().any(|value| value.contains(&made_up)), "the secret is in the environment");
        assert_eq!(env["GIT_CONFIG_KEY_0"], "credential.https://forge.example.helper");
        std::fs::remove_file(&file).expect("removed");
        let missing = credential_env("https://forge.example/x", "orch", &file).expect_err("refused");
        assert!(missing.contains("cannot be read"), "{missing}");
    }
}
