//! `bodhi disk` and `bodhi disc`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use machine::config::{DiskConfig, InputError};
use worker::control::{Client, ClientError, Disks, Reply, Request};

use crate::arguments::{DiscCommand, DiskCommand, Target};
use crate::{BAD_INPUT, FAILED, complain};

/// Why a command has not been carried out.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Usage(#[from] InputError),
    #[error("{0}: {1}")]
    Input(String, String),
    #[error(transparent)]
    Worker(#[from] ClientError),
}

impl Error {
    fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Usage(_) | Self::Input(..) | Self::Worker(ClientError::Input(_)) => BAD_INPUT,
            Self::Worker(_) => FAILED,
        })
    }
}

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

fn absolute(file: &Path) -> Result<PathBuf, Error> {
    std::path::absolute(file).map_err(|error| Error::Input(file.display().to_string(), error.to_string()))
}

fn ask(
    target: &Target,
    what: Option<&'static str>,
    request: impl FnOnce(String) -> Result<Request, Error>,
) -> Result<Reply, Error> {
    let (api, word) = target.split(what)?;
    let request = request(word)?;
    let mut client = Client::connect(&api).map_err(|error| InputError::io("api", &api, &error))?;
    Ok(client.ask(&request)?)
}

fn finish(reply: Result<Reply, Error>) -> ExitCode {
    match reply {
        Ok(Reply::Attached(name)) => println!("{name}"),
        Ok(Reply::Disks(disks)) => print!("{}", list(&disks)),
        Ok(Reply::Done) => {}
        Ok(other) => {
            complain(&ClientError::Refused(format!("an answer to another question: {other:?}")));
            return ExitCode::from(FAILED);
        }
        Err(error) => {
            complain(&error);
            return error.exit_code();
        }
    }
    ExitCode::SUCCESS
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
