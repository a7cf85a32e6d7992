//! The worker's side of the control socket.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use display::{Key, KeyError};
use machine::config::InputError;
use machine::{AskError, BackupError, ChangeError, IntegrationError, MachineHandle, ScreenError};

use super::{Devices, Disks, Reply, Request};
use crate::console::Console;
use crate::keyboard;

/// The longest request.
const LINE: u64 = 64 << 10;
/// How many clients are served at a time.
const CLIENTS: usize = 16;

/// A socket in the file system, removed when this goes.
#[derive(Debug)]
pub struct SocketFile(PathBuf);

impl SocketFile {
    /// Listens at `path`, which `option` named. A socket that nobody serves any more is replaced; any other
    /// file is left alone.
    ///
    /// # Errors
    /// When the path is taken or cannot be used.
    pub fn bind(option: &'static str, path: &Path) -> Result<(UnixListener, Self), InputError> {
        match std::fs::symlink_metadata(path) {
            Ok(file) if !file.file_type().is_socket() => {
                return Err(InputError::file(option, path, "exists and is no socket"));
            }
            Ok(_) if UnixStream::connect(path).is_ok() => {
                return Err(InputError::file(option, path, "is in use by another worker"));
            }
            Ok(_) => std::fs::remove_file(path).map_err(|error| InputError::io(option, path, &error))?,
            Err(_) => {}
        }
        let listener = UnixListener::bind(path).map_err(|error| InputError::io(option, path, &error))?;
        Ok((listener, Self(path.to_owned())))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // It may have been removed by somebody else.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A control socket that is bound and not served yet.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    file: SocketFile,
}

/// A control socket that is served; dropping it removes the socket.
#[derive(Debug)]
pub struct Serving {
    _file: SocketFile,
}

impl ControlSocket {
    /// Binds the socket at `path`.
    ///
    /// # Errors
    /// When the path is taken or cannot be used.
    pub fn bind(path: &Path) -> Result<Self, InputError> {
        let (listener, file) = SocketFile::bind("api", path)?;
        Ok(Self { listener, file })
    }

    /// Serves clients, each on a thread of its own.
    ///
    /// # Errors
    /// When the host refuses a thread.
    pub fn serve(self, machine: MachineHandle, console: Arc<Console>) -> io::Result<Serving> {
        let Self { listener, file } = self;
        let clients = Arc::new(AtomicUsize::new(0));
        std::thread::Builder::new().name("control".to_owned()).spawn(move || {
            for client in listener.incoming().flatten() {
                if clients.fetch_add(1, Ordering::SeqCst) >= CLIENTS {
                    clients.fetch_sub(1, Ordering::SeqCst);
                    tracing::warn!("more than {CLIENTS} clients of the control socket: one is turned away");
                    continue;
                }
                let (machine, console, clients) =
                    (machine.clone(), Arc::clone(&console), Arc::clone(&clients));
                let thread = std::thread::Builder::new().name("client".to_owned());
                let served = thread.spawn(move || {
                    if let Err(error) = serve(&client, &machine, &console) {
                        tracing::info!("a client of the control socket is lost: {error}");
                    }
                    clients.fetch_sub(1, Ordering::SeqCst);
                });
                if let Err(error) = served {
                    tracing::error!("no thread for a client of the control socket: {error}");
                }
            }
        })?;
        Ok(Serving { _file: file })
    }
}

fn serve(client: &UnixStream, machine: &MachineHandle, console: &Console) -> io::Result<()> {
    let mut lines = BufReader::new(client);
    loop {
        let mut line = Vec::new();
        if (&mut lines).take(LINE).read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        if line.last() != Some(&b'\n') && line.len() as u64 == LINE {
            return reply(client, &Reply::Error("the request is too long".to_owned()));
        }
        match serde_json::from_slice(&line) {
            Ok(Request::Serial {}) => {
                reply(client, &Reply::Done)?;
                return console.attach_stream(client.try_clone()?, machine);
            }
            Ok(Request::Status {}) => reply(client, &Reply::Status(machine.status()))?,
            Ok(Request::Devices {}) => {
                let counts = machine.counts().into_iter().collect();
                reply(client, &Reply::Devices(Devices { devices: machine.devices(), counts }))?;
            }
            // The reply comes first: the machine, and this process, may end at once.
            Ok(Request::PowerOff {}) => {
                reply(client, &Reply::Done)?;
                machine.power_button();
            }
            Ok(Request::Reset {}) => {
                reply(client, &Reply::Done)?;
                machine.reset();
            }
            Ok(Request::Quit {}) => {
                reply(client, &Reply::Done)?;
                machine.stop();
            }
            Ok(Request::Config {}) => reply(client, &Reply::Config(Box::new(machine.config())))?,
            Ok(Request::Disks {}) => {
                reply(client, &Reply::Disks(Disks { disks: machine.disks(), drive: machine.drive() }))?;
            }
            Ok(Request::AttachDisk { disk }) => {
                reply(client, &changed(machine.attach_disk(&disk), Reply::Attached))?;
            }
            Ok(Request::DetachDisk { disk }) => {
                reply(client, &changed(machine.detach_disk(&disk), |()| Reply::Done))?;
            }
            Ok(Request::InsertDisc { file }) => {
                reply(client, &changed(machine.insert_disc(&file), |()| Reply::Done))?;
            }
            Ok(Request::EjectDisc { force }) => {
                reply(client, &changed(machine.eject_disc(force), |()| Reply::Done))?;
            }
            Ok(Request::Nets {}) => reply(client, &Reply::Nets(machine.nets()))?,
            Ok(Request::AttachNet { net }) => {
                reply(client, &changed(machine.attach_net(&net), Reply::Attached))?;
            }
            Ok(Request::DetachNet { net }) => {
                reply(client, &changed(machine.detach_net(&net), |()| Reply::Done))?;
            }
            Ok(Request::SetLink { net, up }) => {
                reply(client, &changed(machine.set_link(&net, up), |()| Reply::Done))?;
            }
            Ok(Request::Screenshot {}) => {
                reply(client, &seen(machine.screenshot(), |png| Reply::Screenshot(BASE64.encode(png))))?;
            }
            Ok(Request::ScreenText {}) => reply(client, &seen(machine.screen_text(), Reply::Text))?,
            Ok(Request::Type { text }) => reply(client, &pressed(machine, display::typed(&text)))?,
            Ok(Request::Key { keys }) => {
                reply(client, &pressed(machine, display::chord(&keys).map(|chord| vec![chord])))?;
            }
            Ok(Request::Integration {}) => {
                reply(client, &served(machine.integration(), |status| Reply::Integration(Box::new(status))))?;
            }
            Ok(Request::Shutdown { what, force }) => {
                reply(client, &served(machine.shut_down(what, force), |()| Reply::Done))?;
            }
            Ok(Request::SetKey { key, value }) => {
                reply(client, &served(machine.set_key(&key, &value), |()| Reply::Done))?;
            }
            Ok(Request::DeleteKey { key }) => {
                reply(client, &served(machine.delete_key(&key), |()| Reply::Done))?;
            }
            Ok(Request::CopyFile { from, to, overwrite }) => {
                reply(client, &served(machine.copy_file(&from, &to, overwrite), |()| Reply::Done))?;
            }
            Ok(Request::BackUp { file }) => {
                reply(client, &served(machine.back_up(&file), |()| Reply::Done))?;
            }
            Ok(Request::EnableService { service, on }) => {
                reply(client, &served(machine.enable_service(service, on), |()| Reply::Done))?;
            }
            Err(error) => reply(client, &Reply::Error(format!("no such request: {error}")))?,
        }
    }
}

fn changed<T>(result: Result<T, ChangeError>, reply: impl FnOnce(T) -> Reply) -> Reply {
    match result {
        Ok(value) => reply(value),
        Err(ChangeError::Input(reason)) => Reply::Input(reason),
        Err(ChangeError::Refused(reason)) => Reply::Error(reason),
    }
}

fn seen<T>(result: Result<T, ScreenError>, reply: impl FnOnce(T) -> Reply) -> Reply {
    result.map_or_else(|error| Reply::Error(error.to_string()), reply)
}

fn served<T>(result: Result<T, IntegrationError>, reply: impl FnOnce(T) -> Reply) -> Reply {
    match result {
        Ok(value) => reply(value),
        Err(
            error @ (IntegrationError::Guest(AskError::Text(_))
            | IntegrationError::File(..)
            | IntegrationError::Backup(BackupError::Target { .. })),
        ) => Reply::Input(error.to_string()),
        Err(error) => Reply::Error(error.to_string()),
    }
}

fn pressed(machine: &MachineHandle, chords: Result<Vec<Vec<Key>>, KeyError>) -> Reply {
    match chords {
        Ok(chords) => match keyboard::press(machine, &chords) {
            Ok(()) => Reply::Done,
            Err(error) => Reply::Error(error.to_string()),
        },
        Err(error) => Reply::Input(error.to_string()),
    }
}

fn reply(mut client: &UnixStream, reply: &Reply) -> io::Result<()> {
    let mut line = serde_json::to_vec(reply)?;
    line.push(b'\n');
    client.write_all(&line)
}
