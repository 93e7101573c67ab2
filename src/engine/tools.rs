//! Tool chains outside the system's folders: what jobs must be able to read for `cargo`, `python` or `node` to work at all.
//!
//! Owns the list of layouts that are known by where they stand in `PATH`. Opens the tool chain and nothing beside it: the
//! home folder itself is never opened, and every job keeps a private `HOME`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What jobs may read, and what tells their tools where they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tools {
    /// Folders to be readable.
    pub(crate) read: Vec<PathBuf>,
    /// Environment of every job.
    pub(crate) env: BTreeMap<String, String>,
}

/// Version managers: the folder's name, and the variable that names the folder where the program asks for one.
const MANAGERS: [(&str, Option<&str>); 9] = [
    (".rustup", Some("RUSTUP_HOME")),
    (".pyenv", Some("PYENV_ROOT")),
    (".nvm", Some("NVM_DIR")),
    (".asdf", Some("ASDF_DATA_DIR")),
    (".rbenv", Some("RBENV_ROOT")),
    (".sdkman", None),
    (".volta", Some("VOLTA_HOME")),
    (".bun", None),
    (".deno", None),
];

/// Programs whose installation stands around them: `PREFIX/bin/NAME` needs `PREFIX/lib` and the like.
const INTERPRETERS: [&str; 12] =
    ["python3", "python", "node", "ruby", "go", "java", "perl", "php", "deno", "bun", "rustc", "uv"];

/// Looks along `PATH`.
pub(crate) fn find(env: &BTreeMap<String, String>) -> Tools {
    let mut tools = Tools::default();
    let home = env.get("HOME").map(PathBuf::from);
    for folder in env.get("PATH").map(String::as_str).unwrap_or_default().split(':').map(Path::new) {
        if folder.is_absolute() && folder.is_dir() {
            tools.add(folder.to_owned());
            // A virtual environment is its `bin` folder's parent; an interpreter may be a link to somewhere else.
            let environment = folder.parent().filter(|p| p.join("pyvenv.cfg").is_file());
            tools.read.extend(environment.map(Path::to_owned));
            for name in INTERPRETERS {
                tools.read.extend(prefix(&folder.join(name), home.as_deref()));
            }
            for ancestor in folder.ancestors().skip(1) {
                let name = ancestor.file_name().and_then(|n| n.to_str()).unwrap_or_default();
                if let Some((_, variable)) = MANAGERS.iter().find(|(manager, _)| *manager == name) {
                    tools.manager(ancestor, *variable);
                }
            }
        }
    }
    // Cargo's proxies stand in `.cargo/bin`, the tool chains that they start beside it.
    let rustup = env.get("RUSTUP_HOME").map(PathBuf::from).or_else(|| home.map(|h| h.join(".rustup")));
    if let Some(rustup) = rustup.filter(|r| r.is_dir()) {
        tools.manager(&rustup, Some("RUSTUP_HOME"));
    }
    tools.read.sort();
    tools.read.dedup();
    tools
}

/// The installation around a program, unless that is the system's, the home folder, or what holds it.
fn prefix(program: &Path, home: Option<&Path>) -> Option<PathBuf> {
    let real = program.canonicalize().ok()?;
    let bin = real.parent().filter(|p| p.file_name().is_some_and(|n| n == "bin"))?;
    let prefix = bin.parent()?;
    let too_wide = prefix.parent().is_none() || home.is_some_and(|home| home.starts_with(prefix));
    let local = home.is_some_and(|home| prefix == home.join(".local"));
    let system = prefix.starts_with("/usr") || prefix.starts_with("/opt");
    (!too_wide && !local && !system).then(|| prefix.to_owned())
}

impl Tools {
    fn add(&mut self, folder: PathBuf) {
        if !self.read.contains(&folder) {
            self.read.push(folder);
        }
    }

    fn manager(&mut self, folder: &Path, variable: Option<&str>) {
        self.add(folder.to_owned());
        if let Some(variable) = variable {
            self.env.insert(variable.to_owned(), folder.to_string_lossy().into_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_tool_chains_and_never_the_home_folder() {
        let root = tempfile::tempdir().expect("a folder");
        let home = root.path().join("home");
        for folder in [".cargo/bin", ".rustup/toolchains", ".pyenv/versions/3/bin", "bin", ".ssh", "venv/bin"] {
            std::fs::create_dir_all(home.join(folder)).expect("made");
        }
        std::fs::write(home.join("venv/pyvenv.cfg"), "").expect("written");
        // A program in `~/bin` must not open the home folder, which stands around it.
        std::fs::write(home.join("bin/python3"), "").expect("written");
        let at = |p: &str| home.join(p).to_string_lossy().into_owned();
        let path =
            [at(".cargo/bin"), at(".pyenv/versions/3/bin"), at("bin"), at("venv/bin"), "relative".to_owned()].join(":");
        let env = BTreeMap::from([("HOME".to_owned(), at("")), ("PATH".to_owned(), path)]);
        let tools = find(&env);
        let read: Vec<String> = tools
            .read
            .iter()
            .map(|p| p.strip_prefix(&home).map_or_else(|_| "outside".to_owned(), |p| p.display().to_string()))
            .collect();
        assert_eq!(read, [".cargo/bin", ".pyenv", ".pyenv/versions/3/bin", ".rustup", "bin", "venv", "venv/bin"]);
        let names: Vec<&str> = tools.env.keys().map(String::as_str).collect();
        assert_eq!(names, ["PYENV_ROOT", "RUSTUP_HOME"]);
    }
}
