//! File copy where the kernel has no driver for it (since Linux 6.10): the channel itself, by `uio_hv_generic`.
//!
//! Linux `drivers/uio/uio_hv_generic.c`. `/dev/uioN` maps the two rings; reading it waits for the host's interrupt,
//! writing 1 signals the host and lets it interrupt again.

mod mapping;
mod message;
mod ring;

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::device::Service;
use crate::file_copy::FileCopy;
use mapping::Mapping;
use ring::Rings;

/// The host's device on the bus, by its fixed instance.
const DEVICE: &str = "/sys/bus/vmbus/devices/eb765408-105f-49b6-b4aa-c123b64d17d4";

/// Whether the host offers file copy to a kernel without a driver of its own for it.
pub fn is_offered() -> bool {
    Path::new(DEVICE).exists() && !Path::new(FileCopy::DEVICE).exists()
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
        let told = rings.unmask().and_then(|waiting| {
            file.write_all(&1_u32.to_ne_bytes())?;
            Ok(waiting)
        });
        let waited = told.and_then(|waiting| if waiting { Ok(()) } else { file.read_exact(&mut [0; 4]) });
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
    let loaded = Command::new("modprobe").arg("uio_hv_generic").status().context("modprobe")?;
    match find() {
        Some(path) => Ok(path),
        None if loaded.success() => bail!("{DEVICE}: uio_hv_generic does not have it"),
        None => bail!("{DEVICE}: needs the kernel's module uio_hv_generic"),
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
