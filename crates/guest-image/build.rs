//! Builds the guest's side of the integration services, which goes on the setup disk: a static program, so a build of its
//! own, whatever this one is told to do.

use std::path::PathBuf;
use std::process::Command;
use std::{env, fs};

/// Rust's name for guests.
const TARGET: &str = "x86_64-unknown-linux-gnu";
/// What this build is told and that one is not.
const OURS: [&str; 6] = [
    "RUSTFLAGS",
    "CARGO_BUILD_RUSTFLAGS",
    "RUSTC_WRAPPER",
    "RUSTC_WORKSPACE_WRAPPER",
    "CARGO_BUILD_TARGET",
    "CARGO_TARGET_DIR",
];

fn main() {
    let variable = |name| PathBuf::from(env::var_os(name).unwrap_or_else(|| panic!("cargo sets {name}")));
    let (here, out) = (variable("CARGO_MANIFEST_DIR"), variable("OUT_DIR"));
    let guest = here.join("../../guest/integration");
    for part in ["src", "Cargo.toml", "Cargo.lock"] {
        println!("cargo::rerun-if-changed={}", guest.join(part).display());
    }
    println!("cargo::rerun-if-changed={}", here.join("build.rs").display());

    let mut command = Command::new(variable("CARGO"));
    command.args([
        "build",
        "--release",
        "--locked",
        "--quiet",
        "--bin",
        "bodhi-integration",
        "--target",
        TARGET,
    ]);
    command.arg("--manifest-path").arg(guest.join("Cargo.toml"));
    let target = out.join("guest");
    command.arg("--target-dir").arg(&target);
    for name in OURS {
        command.env_remove(name);
    }
    command.env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static");
    let status = command.status().unwrap_or_else(|error| panic!("cargo cannot be started: {error}"));
    assert!(status.success(), "guest/integration does not build: {status}");
    let program = target.join(TARGET).join("release/bodhi-integration");
    let copy = out.join("bodhi-integration");
    fs::copy(&program, &copy).unwrap_or_else(|error| panic!("{}: {error}", program.display()));
}
