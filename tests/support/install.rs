//! Installs an outside tool once into a folder of the workspace, and proves at every start that it is still what was installed.
//!
//! Owns: the shelf (`target/tools`), its locks, the inventory of each installed tool. Refuses: a file whose checksum is not the
//! pinned one, and a half-made installation. Invariants: a tool's folder appears complete or not at all (made aside, then
//! renamed); two processes never install the same tool at once; a folder that differs from its inventory in one byte is
//! thrown away and made again.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use sha2::{Digest as _, Sha256};

/// Name of the inventory inside an installed tool's folder: first line the hash of the recipe's inputs, then one line per file.
const INVENTORY: &str = "installed.txt";

/// Lists a folder as `<sha256 or link:target> <path>` lines. Python hashes a 200 MB browser in a fraction of a second, where an
/// unoptimised test build of our own would take many; caches that Python itself leaves behind do not count as content.
const LIST_FOLDER: &str = r#"
import hashlib, os, sys
top = sys.argv[1]
for folder, names, files in os.walk(top):
    names[:] = [n for n in names if n != "__pycache__"]
    for name in files + [n for n in names if os.path.islink(os.path.join(folder, n))]:
        path = os.path.join(folder, name)
        if os.path.islink(path):
            mark = "link:" + os.readlink(path).replace("\n", "?")
        else:
            digest = hashlib.sha256()
            with open(path, "rb") as f:
                while chunk := f.read(1 << 20):
                    digest.update(chunk)
            mark = digest.hexdigest() + (":x" if os.access(path, os.X_OK) else "")
        sys.stdout.write(mark + " " + os.path.relpath(path, top).replace("\n", "?") + "\n")
"#;

/// Why a tool could not be had. The text is what the person who runs the tests reads: it ends with what to do.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// A program that the installation needs is not there. Install it.
    #[error("`{program}` is not in PATH, and {tool} is installed with it: install {program} and run again")]
    ProgramMissing {
        /// The tool that was asked for.
        tool: String,
        /// The missing program.
        program: String,
    },
    /// A command ran and failed. Mostly the registry or the network: the same call may go through later.
    #[error(
        "{tool} could not be installed: `{command}` ended with {status}:\n{tail}\nRun it by hand to see more; it needs the package registry"
    )]
    CommandFailed {
        /// The tool that was asked for.
        tool: String,
        /// The command line.
        command: String,
        /// Its exit status.
        status: String,
        /// The end of what it printed.
        tail: String,
    },
    /// What arrived is not what was pinned. Never run it; find out why.
    #[error(
        "{tool}: `{file}` has SHA-256 {found}, pinned is {pinned}. Nothing was installed. Either the registry serves something else now, or \
         the pin was changed by mistake: compare both with a trusted source before you change the pin"
    )]
    WrongHash {
        /// The tool that was asked for.
        tool: String,
        /// The file, relative to the tool's folder.
        file: String,
        /// SHA-256 of what arrived, in hex.
        found: String,
        /// SHA-256 that was demanded, in hex.
        pinned: String,
    },
    /// There is no pinned build for this kind of machine.
    #[error(
        "{tool}: no build is pinned for {machine}. Run these tests on x86_64 Linux, or add a pin for it in docs/deploy/tools"
    )]
    NoBuild {
        /// The tool that was asked for.
        tool: String,
        /// Architecture of this machine.
        machine: String,
    },
    /// The disk said no.
    #[error("{tool}: cannot {what} {}: {source}. Check rights and free space", path.display())]
    Disk {
        /// The tool that was asked for.
        tool: String,
        /// What was tried, as a verb.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

/// A file of an installation whose checksum is known before it is fetched.
#[derive(Debug, Clone)]
pub struct Pin {
    /// Path relative to the tool's folder.
    pub file: String,
    /// SHA-256 in lower-case hex.
    pub sha256: String,
}

/// What to install and how. `make` fills an empty folder; everything else decides whether it has to run at all.
pub struct Recipe<'a> {
    /// Short name, part of the folder's name.
    pub name: &'a str,
    /// Version, part of the folder's name.
    pub version: &'a str,
    /// Everything that decides what gets installed (requirement files, checksums, the interpreter): a change makes it anew.
    pub inputs: String,
    /// Files that must have a known checksum.
    pub pins: Vec<Pin>,
    /// Fills the folder. The only part that may use the network.
    pub make: &'a dyn Fn(&Bench<'_>) -> Result<(), InstallError>,
}

/// The folder in which a tool is being made.
pub struct Bench<'a> {
    tool: &'a str,
    /// The folder to fill; it will be renamed.
    pub folder: &'a Path,
    /// What the folder will be called in the end, for files that must name themselves by path.
    pub final_folder: &'a Path,
}

impl Bench<'_> {
    /// Runs a command to its end and gives its standard output; a missing program or a failure is an error that quotes the end
    /// of what it said.
    pub fn run(&self, command: &mut Command) -> Result<String, InstallError> {
        run(self.tool, command)
    }

    /// Makes a folder inside the bench, parents included.
    pub fn make_folder(&self, name: &str) -> Result<PathBuf, InstallError> {
        let path = self.folder.join(name);
        fs::create_dir_all(&path).map_err(|source| self.disk("make the folder", &path, source))?;
        Ok(path)
    }

    /// Checks a file that will not be kept against its pinned SHA-256.
    pub fn demand_hash(&self, path: &Path, sha256: &str) -> Result<(), InstallError> {
        let found = hash_file(path).map_err(|source| self.disk("read", path, source))?;
        if found == sha256 {
            return Ok(());
        }
        let file = path.strip_prefix(self.folder).unwrap_or(path).display().to_string();
        Err(InstallError::WrongHash { tool: self.tool.to_owned(), file, found, pinned: sha256.to_owned() })
    }

    /// Words a disk error of this bench.
    pub fn disk(&self, what: &'static str, path: &Path, source: io::Error) -> InstallError {
        disk(self.tool, what, path, source)
    }
}

/// A folder of installed tools.
#[derive(Debug, Clone)]
pub struct Shelf {
    root: PathBuf,
}

impl Shelf {
    /// A shelf at a folder of one's own; it is made when first used.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The workspace's shelf: `tools` in the target folder (`CARGO_TARGET_DIR` where it is set), shared by all test programs.
    pub fn workspace() -> Self {
        let target = match std::env::var_os("CARGO_TARGET_DIR") {
            Some(folder) if !folder.is_empty() => workspace_root().join(folder),
            _ => workspace_root().join("target"),
        };
        Self::at(target.join("tools"))
    }

    /// The folder of an installed tool; installs it first when it is missing, incomplete, changed or made from other inputs.
    /// Waits for another process that is installing the same tool.
    pub fn install(&self, recipe: &Recipe<'_>) -> Result<PathBuf, InstallError> {
        let Recipe { name, version, .. } = *recipe;
        let tool = format!("{name} {version}");
        fs::create_dir_all(&self.root).map_err(|e| disk(&tool, "make the folder", &self.root, e))?;
        let folder = self.root.join(format!("{name}-{version}"));
        let lock_path = self.root.join(format!(".{name}-{version}.lock"));
        let lock = File::create(&lock_path).map_err(|e| disk(&tool, "open the lock file", &lock_path, e))?;
        lock.lock().map_err(|e| disk(&tool, "lock", &lock_path, e))?;

        let inputs = inputs_hash(recipe);
        if is_intact(&tool, &folder, &inputs)? {
            return Ok(folder);
        }
        self.sweep(&tool, &folder)?;
        let aside = tempfile::Builder::new()
            .prefix(&self.aside_prefix(&folder))
            .tempdir_in(&self.root)
            .map_err(|e| disk(&tool, "make a folder in", &self.root, e))?;
        let bench = Bench { tool: &tool, folder: aside.path(), final_folder: &folder };
        (recipe.make)(&bench)?;
        for pin in &recipe.pins {
            bench.demand_hash(&aside.path().join(&pin.file), &pin.sha256)?;
        }
        let inventory = format!("{inputs}\n{}", list(&tool, aside.path())?);
        let inventory_path = aside.path().join(INVENTORY);
        fs::write(&inventory_path, inventory).map_err(|e| disk(&tool, "write", &inventory_path, e))?;
        fs::rename(aside.path(), &folder).map_err(|e| disk(&tool, "rename to", &folder, e))?;
        // The name is gone, so there is nothing left to delete.
        let _renamed = aside.keep();
        Ok(folder)
    }

    fn aside_prefix(&self, folder: &Path) -> String {
        format!(".making-{}-", folder.file_name().unwrap_or_default().to_string_lossy())
    }

    /// Removes a spoilt installation and what an interrupted one left aside. Called under the lock, so nobody is making it now.
    fn sweep(&self, tool: &str, folder: &Path) -> Result<(), InstallError> {
        let prefix = self.aside_prefix(folder);
        let entries = fs::read_dir(&self.root).map_err(|e| disk(tool, "read the folder", &self.root, e))?;
        let left = entries.flatten().map(|e| e.path()).filter(|path| {
            path == folder || path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&prefix))
        });
        for path in left {
            fs::remove_dir_all(&path).map_err(|e| disk(tool, "remove", &path, e))?;
        }
        Ok(())
    }
}

/// The workspace's root folder.
pub fn workspace_root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).expect("this crate lies two folders below the workspace root").to_path_buf()
}

/// SHA-256 of a file in lower-case hex.
pub fn hash_file(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut digest = Sha256::new();
    let mut chunk = vec![0; 1 << 16];
    loop {
        match io::Read::read(&mut file, &mut chunk)? {
            0 => return Ok(hex::encode(digest.finalize())),
            n => digest.update(&chunk[..n]),
        }
    }
}

/// Runs a command to its end with no standard input. `tool` is named in the error.
pub(crate) fn run(tool: &str, command: &mut Command) -> Result<String, InstallError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let line = std::iter::once(command.get_program())
        .chain(command.get_args())
        // Scripts given by value would drown the message.
        .map(|word| if word.len() > 120 { "...".into() } else { word.to_string_lossy() })
        .collect::<Vec<_>>()
        .join(" ");
    let output = command.stdin(Stdio::null()).output().map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => InstallError::ProgramMissing { tool: tool.to_owned(), program: program.clone() },
        _ => disk(tool, "start", Path::new(&program), source),
    })?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(text);
    }
    let said = format!("{text}{}", String::from_utf8_lossy(&output.stderr));
    let lines: Vec<&str> = said.lines().collect();
    let tail = lines[lines.len().saturating_sub(15)..].join("\n");
    Err(InstallError::CommandFailed { tool: tool.to_owned(), command: line, status: output.status.to_string(), tail })
}

fn disk(tool: &str, what: &'static str, path: &Path, source: io::Error) -> InstallError {
    InstallError::Disk { tool: tool.to_owned(), what, path: path.to_path_buf(), source }
}

fn inputs_hash(recipe: &Recipe<'_>) -> String {
    let mut digest = Sha256::new();
    digest.update(recipe.inputs.as_bytes());
    for pin in &recipe.pins {
        digest.update(format!("\0{}\0{}", pin.file, pin.sha256).as_bytes());
    }
    hex::encode(digest.finalize())
}

fn list(tool: &str, folder: &Path) -> Result<String, InstallError> {
    run(tool, Command::new("python3").args(["-I", "-c", LIST_FOLDER]).arg(folder))
}

/// Whether the folder holds, unchanged, what its inventory lists, made from these inputs. More files are no harm.
fn is_intact(tool: &str, folder: &Path, inputs: &str) -> Result<bool, InstallError> {
    let Ok(inventory) = fs::read_to_string(folder.join(INVENTORY)) else { return Ok(false) };
    let mut lines = inventory.lines();
    if lines.next() != Some(inputs) {
        return Ok(false);
    }
    let present = list(tool, folder)?;
    let present: HashSet<&str> = present.lines().collect();
    Ok(lines.all(|line| present.contains(line)))
}
