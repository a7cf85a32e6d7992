//! One debugger's connection from its begin to its end.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

use gdbstub::conn::Connection;
use gdbstub::stub::state_machine::GdbStubStateMachine;
use gdbstub::stub::{DisconnectReason, GdbStub};
use thiserror::Error;

use crate::debuggee::{Debuggee, Refused, Stop};
use crate::target::Machine;

/// Bytes that are read at once.
const CHUNK: usize = 4096;

/// Why a connection has ended otherwise than by the debugger's wish.
#[derive(Debug, Error)]
pub enum Error {
    /// The connection is lost.
    #[error("the connection is lost")]
    Connection(#[source] io::Error),
    /// What comes over it is not the protocol.
    #[error("{0}")]
    Protocol(String),
    /// The machine cannot be debugged now.
    #[error(transparent)]
    Refused(#[from] Refused),
}

/// A connection to a debugger.
pub trait Stream: Read + Write + Send + Sized + 'static {
    /// A second handle of the same connection.
    ///
    /// # Errors
    /// When the host has no more handles.
    fn another(&self) -> io::Result<Self>;
    /// Ends the connection, also for those that wait for it.
    ///
    /// # Errors
    /// When it has ended already.
    fn end(&self) -> io::Result<()>;
}

impl Stream for TcpStream {
    fn another(&self) -> io::Result<Self> {
        // Packets are small and answers waited for.
        self.set_nodelay(true)?;
        self.try_clone()
    }

    fn end(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Both)
    }
}

impl Stream for UnixStream {
    fn another(&self) -> io::Result<Self> {
        self.try_clone()
    }

    fn end(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Both)
    }
}

/// What happens to a connection.
enum Event {
    Data(Vec<u8>),
    Closed(io::Result<()>),
    Stopped(Stop),
}

/// The way to the debugger. Answers are collected until they are complete.
pub struct Outgoing<S> {
    pub stream: S,
    pub buffer: Vec<u8>,
}

impl<S: Write> Connection for Outgoing<S> {
    type Error = io::Error;

    fn write(&mut self, byte: u8) -> io::Result<()> {
        self.buffer.push(byte);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.write_all(&self.buffer)?;
        self.buffer.clear();
        self.stream.flush()
    }
}

/// Serves one debugger until it detaches, kills the machine or vanishes, or the machine ends. The machine is
/// stopped while the debugger comes, and runs, without breakpoints, when it has gone.
///
/// # Errors
/// When the connection breaks, in whatever way. The machine runs then too.
pub fn serve<S: Stream>(stream: S, debuggee: &dyn Debuggee) -> Result<(), Error> {
    let reading = stream.another().map_err(Error::Connection)?;
    let closing = stream.another().map_err(Error::Connection)?;
    let (events, received) = channel();
    let stops = events.clone();
    debuggee.attach(Box::new(move |stop| {
        // Nobody listens any more when the debugger has just gone.
        let _ = stops.send(Event::Stopped(stop));
    }))?;
    let (taken, wait) = sync_channel(1);
    let reader = std::thread::Builder::new()
        .name("gdb-reader".to_owned())
        .spawn(move || read(reading, &events, &wait))
        .map_err(Error::Connection);
    let result = match reader {
        Ok(reader) => {
            let result = talk(stream, debuggee, &received, &taken);
            // It may have been closed from the other side.
            let _ = closing.end();
            drop((received, taken));
            // It has no more to do, and reports its failures as events.
            let _ = reader.join();
            result
        }
        Err(error) => Err(error),
    };
    match &result {
        Ok(Some(DisconnectReason::Kill)) => debuggee.kill(),
        _ => debuggee.detach(),
    }
    result.map(|_| ())
}

/// Reads from the debugger; each chunk waits until the one before it has been dealt with.
fn read(mut stream: impl Read, events: &Sender<Event>, taken: &Receiver<()>) {
    loop {
        let mut chunk = vec![0; CHUNK];
        let event = match stream.read(&mut chunk) {
            Ok(0) => Event::Closed(Ok(())),
            Ok(len) => {
                chunk.truncate(len);
                Event::Data(chunk)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => Event::Closed(Err(error)),
        };
        let closed = matches!(event, Event::Closed(_));
        if events.send(event).is_err() || closed || taken.recv().is_err() {
            return;
        }
    }
}

pub type StateMachine<'a, 'b, S> = GdbStubStateMachine<'a, Machine<'b>, Outgoing<S>>;

fn protocol(error: impl std::fmt::Display) -> Error {
    Error::Protocol(error.to_string())
}

/// Why the debugger has gone, if it has said so.
fn talk<S: Stream>(
    stream: S,
    debuggee: &dyn Debuggee,
    events: &Receiver<Event>,
    taken: &SyncSender<()>,
) -> Result<Option<DisconnectReason>, Error> {
    let mut machine = Machine::new(debuggee);
    let stub = GdbStub::new(Outgoing { stream, buffer: Vec::new() });
    let mut state = stub.run_state_machine(&mut machine).map_err(protocol)?;
    loop {
        let event = events.recv().map_err(|_| Error::Protocol("nobody reads any more".to_owned()))?;
        match event {
            Event::Data(data) => {
                for byte in data {
                    state = pump(state, &mut machine, byte)?;
                    if let GdbStubStateMachine::Disconnected(gone) = &state {
                        return Ok(Some(gone.get_reason()));
                    }
                }
                // The reader ends by itself.
                let _ = taken.send(());
            }
            Event::Stopped(stop) => {
                let ended = matches!(stop, Stop::Ended(_));
                state = match state {
                    GdbStubStateMachine::Running(running) => {
                        let reason = machine.reason(stop);
                        running.report_stop(&mut machine, reason).map_err(protocol)?
                    }
                    other => other,
                };
                if ended {
                    return Ok(None);
                }
            }
            Event::Closed(Ok(())) => return Ok(None),
            Event::Closed(Err(error)) => return Err(Error::Connection(error)),
        }
    }
}

/// Takes a byte from the debugger.
pub fn pump<'a, 'b, S: Write>(
    state: StateMachine<'a, 'b, S>,
    machine: &mut Machine<'b>,
    byte: u8,
) -> Result<StateMachine<'a, 'b, S>, Error> {
    let state = match state {
        GdbStubStateMachine::Idle(idle) => idle.incoming_data(machine, byte).map_err(protocol)?,
        GdbStubStateMachine::Running(running) => running.incoming_data(machine, byte).map_err(protocol)?,
        other => other,
    };
    match state {
        GdbStubStateMachine::CtrlCInterrupt(interrupt) => {
            let reason = machine.interrupt();
            interrupt.interrupt_handled(machine, reason).map_err(protocol)
        }
        other => Ok(other),
    }
}
