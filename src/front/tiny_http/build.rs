//! Copies the source of tiny_http, as cargo fetched it and checked it against Cargo.lock, to
//! `OUT_DIR`, and applies the patches beside this file (the joints).
//!
//! Nothing is downloaded, and nothing outside of `OUT_DIR` is written.

use std::env;
use std::error::Error;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use tiny_http as _; // a build-dependency only so that cargo fetches and checks it

/// As in Cargo.toml.
const VERSION: &str = "0.12.0";
/// The patches, and the file that each changes.
const JOINTS: [(&str, &str); 2] = [
    ("host.patch", "lib.rs"),
    ("threads.patch", "util/task_pool.rs"),
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let joined = out.join("tiny_http");
    copy(&published(&out)?.join("src"), &joined)?;
    for (patch, file) in JOINTS {
        println!("cargo::rerun-if-changed={patch}");
        let text = fs::read_to_string(patch)?;
        let diff = text.find("--- a/").ok_or("a patch without a diff")?;
        let diff = diffy::Patch::from_str(&text[diff..])?;
        let file = joined.join(file);
        let result = diffy::apply(&fs::read_to_string(&file)?, &diff);
        fs::write(
            file,
            result.map_err(|e| format!("{patch} does not apply: {e}"))?,
        )?;
    }
    let root = joined.join("lib.rs");
    let text = fs::read_to_string(&root)?;
    fs::write(&root, without_inner_attributes(&text))?;
    Ok(())
}

/// Where cargo keeps the published crate: in its registry, or in a vendored folder.
///
/// It is asked for through a package of its own: the whole workspace may need crates that this
/// build does not need and that were not fetched.
fn published(out: &Path) -> Result<PathBuf, Box<dyn Error>> {
    let asking = out.join("asking");
    fs::create_dir_all(asking.join("src"))?;
    fs::write(asking.join("src/lib.rs"), "")?;
    let manifest = asking.join("Cargo.toml");
    fs::write(
        &manifest,
        format!(
            "[package]\nname = \"asking\"\nversion = \"0.0.0\"\nedition = \"2021\"\n[workspace]\n\
             [dependencies]\ntiny_http = {{ version = \"={VERSION}\", default-features = false }}\n"
        ),
    )?;
    let said = Command::new(env::var("CARGO")?)
        .args([
            "metadata",
            "--offline",
            "--format-version",
            "1",
            "--manifest-path",
        ])
        .arg(&manifest)
        // Those flags are for the target, not for this question to the compiler.
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .output()?;
    if !said.status.success() {
        let why = String::from_utf8_lossy(&said.stderr);
        return Err(format!("cargo does not say where tiny_http {VERSION} lies: {why}").into());
    }
    let said: serde_json::Value = serde_json::from_slice(&said.stdout)?;
    let mut packages = said["packages"].as_array().into_iter().flatten();
    let found = packages.find(|p| p["name"] == "tiny_http" && p["version"] == VERSION);
    let manifest = found.and_then(|p| p["manifest_path"].as_str());
    let folder = manifest.and_then(|m| Path::new(m).parent());
    Ok(folder.ok_or("cargo does not know tiny_http")?.to_owned())
}

/// Copies a folder and all that is in it. The copies are new and writable, whatever the originals are.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        match entry.file_type()?.is_dir() {
            true => copy(&entry.path(), &to)?,
            false => fs::write(&to, fs::read(entry.path())?)?,
        }
    }
    Ok(())
}

/// Removes the crate's inner attributes and documentation, which an included file cannot have.
fn without_inner_attributes(text: &str) -> String {
    let inner = |line: &&str| line.starts_with("//!") || line.starts_with("#![");
    text.split_inclusive('\n')
        .filter(|line| !inner(line))
        .collect()
}
