//! INT3 in the guest's memory, where a debugger has more breakpoints than there are debug registers. They are there
//! while the machine runs: a debugger that reads memory sees what the guest has there.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use guest_memory::GuestMemory;
use vm_memory::{Bytes, GuestAddress};

const INT3: u8 = 0xcc;

#[derive(Default)]
struct State {
    /// What each processor wants.
    wanted: Vec<Vec<u64>>,
    /// Where instructions are to be carried out whatever waits there.
    passed: Vec<Option<u64>>,
    /// What is there now: guest physical address, and what was there.
    present: Vec<(u64, u8)>,
}

/// The patches of a machine.
#[derive(Default)]
pub struct Patches(Mutex<State>);

impl Patches {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Processor `vp` wants INT3 at `addresses` from the next [`Self::insert`] on, and nobody's at `passed`.
    pub fn want(&self, vp: u32, addresses: Vec<u64>, passed: Option<u64>) {
        let mut state = self.state();
        let index = vp as usize;
        if state.wanted.len() <= index {
            state.wanted.resize(index + 1, Vec::new());
            state.passed.resize(index + 1, None);
        }
        state.wanted[index] = addresses;
        state.passed[index] = passed;
    }

    /// Puts them into `memory`, before processors run.
    pub fn insert(&self, memory: &GuestMemory) {
        let mut state = self.state();
        let mut addresses: BTreeSet<u64> = state.wanted.iter().flatten().copied().collect();
        state.passed.iter().flatten().for_each(|gpa| {
            addresses.remove(gpa);
        });
        for gpa in addresses {
            if state.present.iter().any(|(present, _)| *present == gpa) {
                continue;
            }
            let at = GuestAddress(gpa);
            let patched = memory.read_obj::<u8>(at).and_then(|before| {
                memory.write_obj(INT3, at)?;
                Ok(before)
            });
            match patched {
                Ok(before) => state.present.push((gpa, before)),
                Err(error) => tracing::error!(gpa = format_args!("{gpa:#x}"), %error, "a breakpoint is lost"),
            }
        }
    }

    /// Takes them out of `memory`, for a debugger that looks at it. What the guest has written there meanwhile stays.
    pub fn remove(&self, memory: &GuestMemory) {
        for (gpa, before) in self.state().present.drain(..) {
            let at = GuestAddress(gpa);
            let restored = memory.read_obj::<u8>(at).and_then(|now| match now {
                INT3 => memory.write_obj(before, at),
                _ => Ok(()),
            });
            if let Err(error) = restored {
                tracing::error!(gpa = format_args!("{gpa:#x}"), %error, "a breakpoint stays in memory");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(memory: &GuestMemory) -> [u8; 4] {
        memory.read_obj(GuestAddress(0x1000)).unwrap()
    }

    #[test]
    fn patches_come_and_go_and_what_the_guest_writes_meanwhile_stays() {
        let (memory, _) = guest_memory::allocate(0x2000).unwrap();
        memory.write_slice(&[1, 2, 3, 4], GuestAddress(0x1000)).unwrap();
        let patches = Patches::default();
        patches.want(0, vec![0x1000, 0x1001], None);
        patches.want(1, vec![0x1001, 0x1003], None);
        assert_eq!(bytes(&memory), [1, 2, 3, 4], "not before processors run");
        patches.insert(&memory);
        patches.insert(&memory);
        assert_eq!(bytes(&memory), [INT3, INT3, 3, INT3]);
        memory.write_obj(9_u8, GuestAddress(0x1003)).unwrap();
        patches.remove(&memory);
        assert_eq!(bytes(&memory), [1, 2, 3, 9]);
        patches.want(0, vec![0x1000], None);
        patches.want(1, vec![0x1001], Some(0x1000));
        patches.insert(&memory);
        assert_eq!(bytes(&memory), [1, INT3, 3, 9], "an instruction that a processor steps over");
        patches.remove(&memory);
        patches.remove(&memory);
        assert_eq!(bytes(&memory), [1, 2, 3, 9]);
    }
}
