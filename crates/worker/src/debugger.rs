//! Where debuggers connect (`--gdb`): one after the other.

use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::sync::Arc;

use gdb::{Debuggee, Stream};
use machine::config::{Gdb, GdbEndpoint, InputError};

use crate::control::SocketFile;

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, SocketFile),
}

/// A place that is bound and not served yet.
pub(crate) struct DebugSocket {
    listener: Listener,
    place: String,
}

/// A place that is served; dropping it removes its socket.
pub(crate) struct Serving {
    _file: Option<SocketFile>,
}

impl DebugSocket {
    /// Binds the place of `gdb`.
    ///
    /// # Errors
    /// When it is taken or cannot be used.
    pub fn bind(gdb: &Gdb) -> Result<Self, InputError> {
        let listener = match &gdb.endpoint {
            GdbEndpoint::Tcp(host, port) => {
                let bound = TcpListener::bind((host.as_str(), *port));
                Listener::Tcp(bound.map_err(|error| {
                    InputError::new("gdb", &gdb.endpoint, format!("cannot listen there: {error}"))
                })?)
            }
            GdbEndpoint::Unix(path) => {
                let (listener, file) = SocketFile::bind("gdb", path)?;
                Listener::Unix(listener, file)
            }
        };
        Ok(Self { listener, place: gdb.endpoint.to_string() })
    }

    /// Serves debuggers of `machine`.
    ///
    /// # Errors
    /// When the host refuses a thread.
    pub fn serve(self, machine: Arc<dyn Debuggee>) -> std::io::Result<Serving> {
        let Self { listener, place } = self;
        tracing::info!("a debugger may connect to {place}");
        let thread = std::thread::Builder::new().name("gdb".to_owned());
        let file = match listener {
            Listener::Tcp(listener) => {
                thread.spawn(move || listener.incoming().flatten().for_each(|one| serve(one, &*machine)))?;
                None
            }
            Listener::Unix(listener, file) => {
                thread.spawn(move || listener.incoming().flatten().for_each(|one| serve(one, &*machine)))?;
                Some(file)
            }
        };
        Ok(Serving { _file: file })
    }
}

fn serve(stream: impl Stream, machine: &dyn Debuggee) {
    tracing::info!("a debugger has come");
    match gdb::serve(stream, machine) {
        Ok(()) => tracing::info!("the debugger has gone"),
        Err(error) => {
            let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
            tracing::warn!("the debugger is lost: {error}{}", cause.unwrap_or_default());
        }
    }
}
