//! The console: the guest's serial port on one side, a terminal, a file, sockets on the other.
//!
//! Output goes through a bounded queue to one thread, which writes it to everyone who listens. When the
//! queue is full the serial port waits, as a wire would; nothing is lost. Input of all sources is merged. Who
//! connects later is first told the end of what has been said before.
//!
//! Locks: `listeners` is held while output is written; no other lock is taken then.

mod input;
mod output;
mod terminal;

#[cfg(test)]
mod tests;

pub use terminal::Terminal;

use std::collections::VecDeque;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use machine::MachineHandle;
use machine::config::InputError;

use crate::control::SocketFile;
use input::Source;
use output::Queue;

/// How long a client of a socket may leave output unread before it is dropped.
const CLIENT_PATIENCE: Duration = Duration::from_secs(5);

/// Bytes of output that are kept for those who connect later.
const MEMORY: usize = 64 << 10;

/// Who gets the output, and the end of what has been put out.
#[derive(Default)]
struct Listeners {
    sinks: Vec<Box<dyn Write + Send>>,
    said: VecDeque<u8>,
}

/// What connects the serial port to the world.
pub struct Console {
    queue: Arc<Queue>,
    listeners: Mutex<Listeners>,
    /// The sockets that exist as long as the console does.
    files: Mutex<Vec<SocketFile>>,
}

impl Console {
    /// A console that nobody listens to as yet.
    ///
    /// # Errors
    /// When the host refuses a thread.
    pub fn start() -> io::Result<Arc<Self>> {
        let console =
            Arc::new(Self { queue: Arc::default(), listeners: Mutex::default(), files: Mutex::default() });
        let writer = Arc::clone(&console);
        std::thread::Builder::new().name("console".to_owned()).spawn(move || {
            while let Some(bytes) = writer.queue.take() {
                writer.write(&bytes);
                writer.queue.written();
            }
        })?;
        Ok(console)
    }

    /// The end that the serial port writes to.
    pub fn output(&self) -> Box<dyn Write + Send> {
        Box::new(output::QueueWriter(Arc::clone(&self.queue)))
    }

    /// Connects this process's input and output; a terminal is put into raw mode until the value that is
    /// returned goes.
    pub fn attach_stdio(&self, machine: &MachineHandle) -> Option<Terminal> {
        let terminal = Terminal::raw();
        self.add(Box::new(io::stdout()));
        let source = if terminal.is_some() { Source::Terminal } else { Source::Stream };
        if Terminal::may_read() {
            input::start("stdin", io::stdin(), source, machine.clone());
        }
        terminal
    }

    /// Lets the output go to the file at `path`, behind what is there.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn attach_file(&self, path: &Path) -> Result<(), InputError> {
        let file = OpenOptions::new().append(true).create(true).open(path);
        self.add(Box::new(file.map_err(|error| InputError::io("serial", path, &error))?));
        Ok(())
    }

    /// Lets clients connect to a socket at `path`.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn listen(self: &Arc<Self>, path: &Path, machine: &MachineHandle) -> Result<(), InputError> {
        let (listener, file) = SocketFile::bind("serial", path)?;
        lock(&self.files).push(file);
        let (console, machine, path) = (Arc::clone(self), machine.clone(), path.to_owned());
        let accept = move || console.accept(&listener, &machine, &path);
        std::thread::Builder::new()
            .name("serial".to_owned())
            .spawn(accept)
            .map_err(|error| InputError::new("serial", "socket", error.to_string()))?;
        Ok(())
    }

    fn accept(&self, listener: &UnixListener, machine: &MachineHandle, path: &Path) {
        for client in listener.incoming() {
            if let Err(error) = client.and_then(|client| self.attach_stream(client, machine)) {
                tracing::warn!("a client of {} is lost: {error}", path.display());
            }
        }
    }

    /// Connects a stream: it gets the end of the output so far and all that follows, and what it sends is
    /// input.
    ///
    /// # Errors
    /// When the stream is broken.
    pub fn attach_stream(&self, client: UnixStream, machine: &MachineHandle) -> io::Result<()> {
        client.set_write_timeout(Some(CLIENT_PATIENCE))?;
        let (reader, mut writer) = (client.try_clone()?, client);
        let mut listeners = lock(&self.listeners);
        let said = listeners.said.make_contiguous();
        writer.write_all(said)?;
        listeners.sinks.push(Box::new(writer));
        drop(listeners);
        input::start("client", reader, Source::Stream, machine.clone());
        Ok(())
    }

    fn add(&self, sink: Box<dyn Write + Send>) {
        lock(&self.listeners).sinks.push(sink);
    }

    /// Writes to everyone who listens; who no longer does is dropped.
    fn write(&self, bytes: &[u8]) {
        let Listeners { sinks, said } = &mut *lock(&self.listeners);
        sinks.retain_mut(|sink| sink.write_all(bytes).and_then(|()| sink.flush()).is_ok());
        said.extend(bytes);
        said.drain(..said.len().saturating_sub(MEMORY));
    }

    /// Waits until everything has been written, but no longer than `patience`.
    pub fn drain(&self, patience: Duration) {
        self.queue.drain(patience);
    }

    /// Ends the writing and removes the sockets.
    pub fn close(&self) {
        self.queue.close();
        lock(&self.files).clear();
    }
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
