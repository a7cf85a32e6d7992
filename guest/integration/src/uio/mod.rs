//! File copy where the kernel has no driver for it (since Linux 6.10): the channel itself, by `uio_hv_generic`.
//!
//! Linux `drivers/uio/uio_hv_generic.c`. `/dev/uioN` maps the two rings; reading it waits for the host's interrupt,
//! writing 1 signals the host and lets it interrupt again.

mod mapping;
pub mod message;
pub mod ring;

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::device::Service;
use crate::file_copy::FileCopy;
use mapping::Mapping;
use ring::Rings;

/// The host's device on the bus, by its fixed instance, and the interface that it has.
const DEVICE: &str = "/sys/bus/vmbus/devices/eb765408-105f-49b6-b4aa-c123b64d17d4";
const INTERFACE: &str = "34d14be3-dee4-41c8-9ae7-6b174977c192";
const DRIVER: &str = "/sys/bus/vmbus/drivers/uio_hv_generic";
/// The first kernel without a driver for file copy.
const SINCE: (u32, u32) = (6, 10);
/// How long the device file may take to come once the driver has the channel.
const PATIENCE: Duration = Duration::from_secs(10);

/// Whether the kernel has no driver of its own for file copy.
pub fn is_needed() -> bool {
    let release = nix::sys::utsname::uname().map(|name| name.release().to_string_lossy().into_owned());
    release.is_ok_and(|release| version(&release) >= Some(SINCE)) && !Path::new(FileCopy::DEVICE).exists()
}

/// The first two numbers of a kernel's release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|character: char| !character.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// Serves until the host takes the service away.
///
/// # Errors
/// When `uio_hv_generic` does not have the channel, or the host breaks its ring.
pub fn serve(mut service: FileCopy) -> Result<()> {
    let path = device()?;
    let mut file =
        File::options().read(true).write(true).open(&path).with_context(|| path.display().to_string())?;
    let size = map_size(&path)?;
    let mapping =
        Mapping::new(&file, size).with_context(|| format!("{}: mapping the rings", path.display()))?;
    let mut rings = Rings::new(mapping);
    eprintln!("bodhi-integration: {}: serving the host", path.display());
    loop {
        while let Some(packet) = rings.receive()? {
            if let Some(answer) = message::answer(&packet.data, |request| service.answer(request)) {
                rings.send(packet.transaction, &answer)?;
            }
        }
        // The host is told that there is room and an answer, and may interrupt; what came before that is seen at once.
        let waiting = rings.unmask();
        let told = file.write_all(&1_u32.to_ne_bytes());
        let waited = told.and_then(|()| if waiting { Ok(()) } else { file.read_exact(&mut [0; 4]) });
        match waited {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                service.cut_off();
                // EIO is what a channel that has been taken away says.
                return if error.raw_os_error() == Some(5) {
                    Ok(())
                } else {
                    Err(error).context("the channel")
                };
            }
        }
    }
}

/// The device file of the channel; its driver is loaded if it is not there yet.
fn device() -> Result<PathBuf> {
    let find = || {
        let mut entries = fs::read_dir(Path::new(DEVICE).join("uio")).ok()?.flatten();
        Some(Path::new("/dev").join(entries.next()?.file_name()))
    };
    if let Some(path) = find() {
        return Ok(path);
    }
    if !Path::new(DEVICE).exists() {
        bail!("{DEVICE}: the host does not offer file copy");
    }
    if !Path::new(DRIVER).exists() {
        let loaded = Command::new("modprobe").arg("uio_hv_generic").status().context("modprobe")?;
        if !loaded.success() {
            bail!("{DEVICE}: needs the kernel's module uio_hv_generic");
        }
    }
    // Some kernels tell the driver by themselves which device this is; a second time is refused.
    if find().is_none()
        && let Err(error) = fs::write(Path::new(DRIVER).join("new_id"), INTERFACE)
        && error.kind() != io::ErrorKind::AlreadyExists
    {
        return Err(error).with_context(|| format!("{DRIVER}/new_id"));
    }
    let end = Instant::now() + PATIENCE;
    loop {
        match find() {
            Some(path) if path.exists() => return Ok(path),
            _ if Instant::now() > end => bail!("{DEVICE}: uio_hv_generic does not take it"),
            _ => thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// Bytes of both rings.
fn map_size(path: &Path) -> Result<usize> {
    let name = path.file_name().unwrap_or_default();
    let file = Path::new("/sys/class/uio").join(name).join("maps/map0/size");
    let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    let digits = text.trim().trim_start_matches("0x");
    usize::from_str_radix(digits, 16).with_context(|| format!("{}: {digits}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_told_by_their_numbers() {
        assert_eq!(version("6.12.95+deb12-amd64"), Some((6, 12)));
        assert!(version("6.9.0") < Some(SINCE) && version("6.10-rc1") >= Some(SINCE));
        assert_eq!((version("linux"), version("")), (None, None));
    }
}
