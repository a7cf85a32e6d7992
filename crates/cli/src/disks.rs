//! `bodhi disk`, `bodhi disc` and `bodhi setup-disk`.

use std::path::Path;
use std::process::ExitCode;

use machine::config::DiskConfig;
use worker::control::{Disks, Reply, Request};

use crate::arguments::{DiscCommand, DiskCommand, SetupDiskCommand, Target};
use crate::client::{self, Error, absolute, connect, unexpected};
use crate::{complain, image};

pub(crate) fn disk(command: &DiskCommand) -> ExitCode {
    let request: fn(String) -> Result<Request, Error> = match command {
        DiskCommand::Attach(_) => |word| {
            let disk = word.parse::<DiskConfig>().map_err(|reason| Error::Input(word.clone(), reason))?;
            Ok(Request::AttachDisk { disk: DiskConfig { file: absolute(&disk.file)?, ..disk } })
        },
        DiskCommand::Detach(_) => |word| {
            // A file as it is seen from here; the worker may be elsewhere.
            let file = Path::new(&word);
            let file = if file.exists() { absolute(file)?.into_os_string().into_string().ok() } else { None };
            Ok(Request::DetachDisk { disk: file.unwrap_or(word) })
        },
        DiskCommand::List(_) => |_| Ok(Request::Disks {}),
    };
    match command {
        DiskCommand::Attach(target) => finish(ask(target, Some("disk"), request)),
        DiskCommand::Detach(target) => finish(ask(target, Some("disk"), request)),
        DiskCommand::List(target) => finish(ask(target, None, request)),
    }
}

pub(crate) fn disc(command: &DiscCommand) -> ExitCode {
    match command {
        DiscCommand::Insert(target) => finish(ask(target, Some("ISO image"), |word| {
            Ok(Request::InsertDisc { file: absolute(Path::new(&word))? })
        })),
        DiscCommand::Eject { target, force } => {
            finish(ask(target, None, |_| Ok(Request::EjectDisc { force: *force })))
        }
    }
}

pub(crate) fn setup_disk(command: &SetupDiskCommand) -> ExitCode {
    let (target, cache) = match command {
        SetupDiskCommand::Insert { target, cache } => (target, cache),
        SetupDiskCommand::Eject { target, force } => {
            return finish(ask(target, None, |_| Ok(Request::EjectDisc { force: *force })));
        }
    };
    // A machine that is not there is told before anything is made.
    let connected = target.split(None).and_then(|(api, _)| connect(&api));
    let mut client = match connected {
        Ok(client) => client,
        Err(error) => return client::finish(Err(error.into())),
    };
    match image::setup_disk(cache.as_ref()) {
        Ok(file) => finish(absolute(&file).and_then(|file| Ok(client.ask(&Request::InsertDisc { file })?))),
        Err(failure) => {
            complain(&failure);
            failure.exit_code()
        }
    }
}

fn ask(
    target: &Target,
    what: Option<&'static str>,
    request: impl FnOnce(String) -> Result<Request, Error>,
) -> Result<Reply, Error> {
    let (api, word) = target.split(what)?;
    let request = request(word)?;
    Ok(connect(&api)?.ask(&request)?)
}

fn finish(reply: Result<Reply, Error>) -> ExitCode {
    client::finish(reply.and_then(|reply| {
        match reply {
            Reply::Attached(name) => println!("{name}"),
            Reply::Disks(disks) => print!("{}", list(&disks)),
            Reply::Done => {}
            other => return Err(unexpected(&other)),
        }
        Ok(())
    }))
}

/// A line for each disk and for the drive.
fn list(Disks { disks, drive }: &Disks) -> String {
    let mut text = String::new();
    for disk in disks {
        let mut options = String::new();
        options.push_str(if disk.config.readonly { ", read-only" } else { "" });
        options.push_str(if disk.config.snapshot { ", snapshot" } else { "" });
        let (name, mib, file) = (&disk.name, disk.bytes >> 20, disk.config.file.display());
        text.push_str(&format!("{name:<10}  {mib:>8} MiB  {file}{options}\n"));
    }
    if let Some(drive) = drive {
        let file = drive.config.file.as_ref().map_or("empty".to_owned(), |file| file.display().to_string());
        let tray = if drive.tray_open { ", tray open" } else { "" };
        let locked = if drive.locked { ", held by the guest" } else { "" };
        text.push_str(&format!("{:<10}  {:>12}  {file}{tray}{locked}\n", drive.name, "disc"));
    }
    text
}
