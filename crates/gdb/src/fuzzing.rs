//! The entry of the fuzz target.

use gdbstub::stub::GdbStub;
use gdbstub::stub::state_machine::GdbStubStateMachine;

use crate::debuggee::Stop;
use crate::fake::Fake;
use crate::serve::{Outgoing, pump};
use crate::target::Machine;

/// Gives `data` to the protocol as what a debugger sends, with a stop wherever the machine has been resumed.
pub fn packets(data: &[u8]) {
    let fake = Fake::new();
    let mut machine = Machine::new(&*fake);
    let outgoing = Outgoing { stream: std::io::sink(), buffer: Vec::new() };
    let Ok(mut state) = GdbStub::new(outgoing).run_state_machine(&mut machine) else { return };
    for &byte in data {
        // What cannot be made out ends the connection.
        let Ok(next) = pump(state, &mut machine, byte) else { return };
        state = match next {
            GdbStubStateMachine::Running(running) if fake.with(|state| state.resumed.take().is_some()) => {
                let reason = machine.reason(Stop::Interrupted);
                let Ok(stopped) = running.report_stop(&mut machine, reason) else { return };
                stopped
            }
            GdbStubStateMachine::Disconnected(_) => return,
            other => other,
        };
    }
}
