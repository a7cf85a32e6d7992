//! Building it.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use uuid::Uuid;

use super::Recipe;
use super::archive::Sources;
use crate::Error;
use crate::cache::Cache;
use crate::layout;
use crate::program::Program;
use crate::subordinate;

const MMDEBSTRAP: Program = Program { name: "mmdebstrap", package: "mmdebstrap" };
const MKE2FS: Program = Program { name: "mke2fs", package: "e2fsprogs" };
const FAKEROOT: Program = Program { name: "fakeroot", package: "fakeroot" };
const SHELL: Program = Program { name: "sh", package: "dash" };
const NEWUIDMAP: Program = Program { name: "newuidmap", package: "uidmap" };

/// What sets the system up, in it.
const SETUP: &str = include_str!("setup");
/// Where that is meanwhile.
const PLACE: &str = "/setting-up";
/// What the kernel is told; the last console is where a program that asks for *the* console writes.
const KERNEL_WORDS: &str = "console=tty0 console=ttyS0,115200";
/// The number of the partition with the system.
const ROOT_NUMBER: u32 = 3;

/// Owners pretended while unpacking must still be so for mke2fs: one process tree. Its arguments: the packed system, an
/// empty folder, mke2fs and its arguments.
const UNPACK: &str = r#"packed=$1 tree=$2; shift 2
tar -C "$tree" -xf "$packed" --exclude='./dev/*' && rm -f "$packed" && exec "$@""#;

/// The image of `recipe`, from `cache` or built now, which takes some minutes and the network. `tell` gets a line for
/// each step.
///
/// # Errors
/// A wrong option, a missing program, or what went wrong in a step.
pub fn build(recipe: &Recipe, cache: &Cache, tell: &dyn Fn(&str)) -> Result<PathBuf, Error> {
    recipe.check()?;
    let words = format!("{}setup {:08x}\n", recipe.words(), crc32fast::hash(SETUP.as_bytes()));
    cache.image((&format!("debian-{}", recipe.suite), "img"), &words, |work, log| {
        image(recipe, work, log, tell)
    })
}

fn image(recipe: &Recipe, work: &Path, log: &Path, tell: &dyn Fn(&str)) -> Result<PathBuf, Error> {
    let mke2fs = MKE2FS.find()?;
    let mmdebstrap = MMDEBSTRAP.find()?;
    let is_root = rustix::process::geteuid().is_root();
    let unpacker = if is_root {
        SHELL.find()?
    } else {
        NEWUIDMAP.find()?;
        let fakeroot = FAKEROOT.find()?;
        subordinate::check()?;
        fakeroot
    };

    let sources = Sources::of(recipe);
    let (root_id, esp) = (Uuid::new_v4(), Uuid::new_v4().as_fields().0);
    let [packed, tree, disk] = ["root.tar", "root", "disk.img"].map(|name| work.join(name));
    write(&work.join("sources.list"), &sources.build)?;
    write(&work.join("setup"), SETUP)?;
    write(&work.join("settings"), &settings(recipe, &sources, &root_id, esp))?;

    tell("installing Debian's packages");
    let mut command = Command::new(mmdebstrap);
    // What an apt of the caller's own is told is not for this one.
    command.env_remove("APT_CONFIG").env("DEBIAN_FRONTEND", "noninteractive");
    command.args(["--variant=minbase", "--format=tar"]);
    command.arg(format!("--include={}", recipe.all_packages().join(",")));
    command.args(["--aptopt=APT::Install-Recommends \"false\"", "--aptopt=Acquire::Retries \"3\""]);
    command.arg(format!("--customize-hook=mkdir -m 700 \"$1\"{PLACE}"));
    for name in ["setup", "settings"] {
        let from = quoted(&work.join(name).display().to_string());
        command.arg(format!("--customize-hook=upload {from} {PLACE}/{name}"));
    }
    command.arg(format!("--customize-hook=chroot \"$1\" sh {PLACE}/setup && rm -r \"$1\"{PLACE}"));
    command.arg(&recipe.suite).args([&packed, &work.join("sources.list")]);
    MMDEBSTRAP.run(&mut command, log)?;

    tell("making the disk");
    let root = layout::root(recipe.size);
    let file = File::create_new(&disk).map_err(Error::file(&disk))?;
    file.set_len(recipe.size).map_err(Error::file(&disk))?;
    fs::create_dir(&tree).map_err(Error::file(&tree))?;
    let mut command = Command::new(unpacker);
    if !is_root {
        command.arg(SHELL.find()?);
    }
    command.args(["-c", UNPACK, "sh"]).args([&packed, &tree]).arg(mke2fs);
    command.args(["-q", "-F", "-t", "ext4", "-L", "root", "-U", &root_id.to_string()]);
    command.arg("-E").arg(format!("offset={},lazy_itable_init=0,lazy_journal_init=0", root.start));
    command.arg("-d").args([&tree, &disk]).arg(format!("{}k", root.size >> 10));
    MKE2FS.run(&mut command, log)?;

    let grub = |name: &str| {
        let path = tree.join("boot/grub").join(name);
        fs::read(&path).map_err(Error::file(&path))
    };
    let (efi, boot, core) =
        (grub("x86_64-efi/core.efi")?, grub("i386-pc/boot.img")?, grub("i386-pc/core.img")?);
    layout::write(&disk, recipe.size, esp, &efi, &boot, &core)?;
    Ok(disk)
}

fn write(path: &Path, text: &str) -> Result<(), Error> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt;
    // The password is nobody else's business.
    let file = File::options().write(true).create_new(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes())).map_err(Error::file(path))
}

/// What the setup script reads.
fn settings(recipe: &Recipe, sources: &Sources, root: &Uuid, esp: u32) -> String {
    let password = recipe.password.as_deref();
    let number = ROOT_NUMBER.to_string();
    let mut text = String::new();
    for (name, value) in [
        ("HOST_NAME", recipe.hostname.as_str()),
        ("USER_NAME", &recipe.user),
        ("PASSWORD", password.unwrap_or(&recipe.user)),
        ("PASSWORD_OVER_NETWORK", if password.is_some() { "yes" } else { "no" }),
        ("SSH_KEY", recipe.ssh_key.as_deref().unwrap_or_default()),
        ("SOURCES", &sources.system),
        ("KERNEL_WORDS", KERNEL_WORDS),
        ("ROOT_NUMBER", &number),
        ("ROOT_ID", &root.to_string()),
        // As Linux writes the number of a FAT volume.
        ("EFI_ID", &format!("{:04X}-{:04X}", esp >> 16, esp & 0xffff)),
    ] {
        let _infallible = writeln!(text, "{name}={}", quoted(value));
    }
    text
}

/// `text` as one word of a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shell_reads_the_settings_as_they_were_meant() {
        let recipe = Recipe { password: Some("it's $HOME `x`".to_owned()), ..Recipe::default() };
        let sources = Sources { build: String::new(), system: "deb a b\ndeb c d\n".to_owned() };
        let text = settings(&recipe, &sources, &Uuid::nil(), 0x12ab_00cd);
        let script = format!(
            "{text}printf '%s|' \"$PASSWORD\" \"$PASSWORD_OVER_NETWORK\" \"$SOURCES\" $EFI_ID $ROOT_ID"
        );
        let output = Command::new("sh").args(["-c", &script]).output().unwrap();
        assert_eq!(
            String::from_utf8(output.stdout).unwrap(),
            "it's $HOME `x`|yes|deb a b\ndeb c d\n|12AB-00CD|00000000-0000-0000-0000-000000000000|"
        );
    }

    #[test]
    fn a_password_that_was_not_chosen_is_for_the_consoles() {
        let sources = Sources { build: String::new(), system: String::new() };
        let text = settings(&Recipe::default(), &sources, &Uuid::nil(), 0);
        assert!(text.contains("PASSWORD='bodhi'\nPASSWORD_OVER_NETWORK='no'\n"), "{text}");
    }
}
