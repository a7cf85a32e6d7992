//! What commands to a machine that runs share.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use machine::config::InputError;
use worker::control::{Client, ClientError, Reply, Request};

use crate::{BAD_INPUT, FAILED, complain};

/// Why a command has not been carried out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Usage(#[from] InputError),
    #[error(transparent)]
    Worker(#[from] ClientError),
    #[error("{0}: {1}")]
    Input(String, String),
    #[error("the worker's picture cannot be read")]
    Picture(#[from] base64::DecodeError),
    #[error("the guest has agreed, but {0} is not over after {1} seconds")]
    Late(&'static str, u64),
}

impl Error {
    fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Usage(_) | Self::Input(..) | Self::Worker(ClientError::Input(_)) => BAD_INPUT,
            Self::Worker(_) | Self::Picture(_) | Self::Late(..) => FAILED,
        })
    }
}

/// Connects to the machine whose control socket is at `api`.
pub(crate) fn connect(api: &Path) -> Result<Client, InputError> {
    Client::connect(api).map_err(|error| InputError::io("api", api, &error))
}

/// A file as the worker, which may be elsewhere, finds it.
pub(crate) fn absolute(file: &Path) -> Result<PathBuf, Error> {
    std::path::absolute(file).map_err(|error| Error::Input(file.display().to_string(), error.to_string()))
}

/// Asks for what is answered by [`Reply::Done`].
pub(crate) fn done(client: &mut Client, request: &Request) -> Result<(), Error> {
    match client.ask(request)? {
        Reply::Done => Ok(()),
        other => Err(unexpected(&other)),
    }
}

/// The worker has answered something else.
pub(crate) fn unexpected(reply: &Reply) -> Error {
    ClientError::Refused(format!("an answer to another question: {reply:?}")).into()
}

/// The exit code, with a complaint if there is reason for one.
pub(crate) fn finish(result: Result<(), Error>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            error.exit_code()
        }
    }
}
