//! A client of the control socket.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use thiserror::Error;

use super::{Reply, Request};

/// Why a worker does not answer.
#[derive(Debug, Error)]
pub enum ClientError {
    /// The connection failed.
    #[error("the worker does not answer: {0}")]
    Io(#[from] io::Error),
    /// The reply is not one.
    #[error("the worker answers what is not understood: {0}")]
    Reply(#[from] serde_json::Error),
    /// The worker refused.
    #[error("{0}")]
    Refused(String),
    /// What was given does not do.
    #[error("{0}")]
    Input(String),
}

/// A connection to a worker.
#[derive(Debug)]
pub struct Client(BufReader<UnixStream>);

impl Client {
    /// Connects to the control socket at `path`.
    ///
    /// # Errors
    /// When nobody listens there.
    pub fn connect(path: &Path) -> io::Result<Self> {
        Ok(Self(BufReader::new(UnixStream::connect(path)?)))
    }

    /// Asks and waits for the reply.
    ///
    /// # Errors
    /// When the worker is lost or refuses.
    pub fn ask(&mut self, request: &Request) -> Result<Reply, ClientError> {
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        self.0.get_mut().write_all(&line)?;
        let mut reply = String::new();
        if self.0.read_line(&mut reply)? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        match serde_json::from_str(&reply)? {
            Reply::Error(reason) => Err(ClientError::Refused(reason)),
            Reply::Input(reason) => Err(ClientError::Input(reason)),
            reply => Ok(reply),
        }
    }
}
