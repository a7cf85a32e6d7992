//! `bodhi screenshot`, `bodhi type` and `bodhi key`.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use machine::config::InputError;
use worker::control::{Client, ClientError, Reply, Request};

use crate::arguments::{ScreenshotArguments, Target};
use crate::{BAD_INPUT, FAILED, complain};

/// Why a command has not been carried out.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Usage(#[from] InputError),
    #[error(transparent)]
    Worker(#[from] ClientError),
    #[error("{0}: {1}")]
    File(String, std::io::Error),
    #[error("the worker's picture cannot be read")]
    Picture(#[from] base64::DecodeError),
}

impl Error {
    fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Usage(_) | Self::File(..) | Self::Worker(ClientError::Input(_)) => BAD_INPUT,
            Self::Worker(_) | Self::Picture(_) => FAILED,
        })
    }
}

pub(crate) fn screenshot(arguments: &ScreenshotArguments) -> ExitCode {
    finish(take(arguments))
}

fn take(ScreenshotArguments { target, text }: &ScreenshotArguments) -> Result<(), Error> {
    if *text {
        let (api, _) = target.split(None)?;
        return match ask(&api, &Request::ScreenText {})? {
            Reply::Text(text) => {
                // Nobody may be reading any more, as behind a pager that has been left.
                let _ = std::io::stdout().write_all(text.as_bytes());
                Ok(())
            }
            other => Err(unexpected(&other)),
        };
    }
    let (api, file) = target.split(Some("file"))?;
    match ask(&api, &Request::Screenshot {})? {
        Reply::Screenshot(png) => {
            let png = BASE64.decode(png)?;
            std::fs::write(&file, png).map_err(|error| Error::File(file, error))
        }
        other => Err(unexpected(&other)),
    }
}

pub(crate) fn type_text(target: &Target) -> ExitCode {
    finish(press(target, "text", |text| Request::Type { text }))
}

pub(crate) fn key(target: &Target) -> ExitCode {
    finish(press(target, "key", |keys| Request::Key { keys }))
}

fn press(target: &Target, what: &'static str, request: impl FnOnce(String) -> Request) -> Result<(), Error> {
    let (api, word) = target.split(Some(what))?;
    match ask(&api, &request(word))? {
        Reply::Done => Ok(()),
        other => Err(unexpected(&other)),
    }
}

fn ask(api: &Path, request: &Request) -> Result<Reply, Error> {
    let mut client = Client::connect(api).map_err(|error| InputError::io("api", api, &error))?;
    Ok(client.ask(request)?)
}

fn unexpected(reply: &Reply) -> Error {
    ClientError::Refused(format!("an answer to another question: {reply:?}")).into()
}

fn finish(result: Result<(), Error>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            error.exit_code()
        }
    }
}
