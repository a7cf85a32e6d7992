//! Which processor carries out the guest's instructions, and a partition of it.

use std::fmt;
use std::sync::{Arc, Weak};

use clock::VmClock;
use counters::{Kind, Registry};
use guest_memory::{CodePages, GuestMemory, Shadow};
use interrupt::{InputListener, Message};
use processor::{Bus, HypervisorInterface, Partition};
use processor_kvm::{KvmConfig, KvmHost, KvmPartition};
use processor_soft::{Inspection, SoftConfig, SoftPartition, Tier};

use super::wiring::Interrupts;
use crate::Error;
use crate::config::{MachineConfig, ProcessorChoice};

/// What carries out the guest's instructions.
#[derive(Debug, Clone)]
pub(crate) enum Engine {
    /// The host's processor, by KVM.
    Kvm(Arc<KvmHost>),
    /// The software processor.
    Soft(Tier, &'static str),
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kvm(_) => f.write_str("KVM"),
            Self::Soft(_, name) => f.write_str(name),
        }
    }
}

impl Engine {
    /// The engine for `config` on this host and, where that was left to us, why.
    ///
    /// # Errors
    /// When KVM is asked for and cannot be had.
    pub fn choose(config: &MachineConfig) -> Result<(Self, Option<String>), Error> {
        let enlightened = !config.features()?.is_empty();
        match config.processor {
            ProcessorChoice::Kvm => {
                let host = KvmHost::open()?;
                if enlightened {
                    host.enlightens()?;
                }
                Ok((Self::Kvm(Arc::new(host)), None))
            }
            ProcessorChoice::Auto if config.translator.is_none() => {
                let host = KvmHost::open().and_then(|host| host.recommended(enlightened).map(|()| host));
                Ok(match host {
                    Ok(host) => (Self::Kvm(Arc::new(host)), Some("KVM".to_owned())),
                    Err(reason) => {
                        (ProcessorChoice::Translator.soft(), Some(format!("translator, for {reason}")))
                    }
                })
            }
            choice => Ok((choice.soft(), None)),
        }
    }
}

impl ProcessorChoice {
    /// The software processor for this choice.
    fn soft(self) -> Engine {
        match self {
            Self::Interpreter => Engine::Soft(Tier::Interpreter, "interpreter"),
            Self::LockStep => Engine::Soft(Tier::LockStep, "lock step"),
            Self::Auto | Self::Translator | Self::Kvm => Engine::Soft(Tier::Translator, "translator"),
        }
    }
}

/// What a partition is made of.
pub(super) struct Setting<'a> {
    pub config: &'a MachineConfig,
    pub memory: &'a GuestMemory,
    /// The firmware's ROM, which processors run code from.
    pub rom: Option<GuestMemory>,
    /// RAM and ROM below 1 MiB.
    pub shadow: Arc<Shadow>,
    pub code: &'a Arc<CodePages>,
    pub clock: &'a Arc<VmClock>,
    pub inspection: Arc<Inspection>,
    pub registry: &'a Arc<Registry>,
    /// Whether the guest sees a hypervisor.
    pub hypervisor: bool,
}

/// A partition of one of the kinds.
pub(super) enum Processors {
    Kvm(Arc<KvmPartition>, Arc<KvmHost>),
    Soft(Arc<SoftPartition>),
}

impl Processors {
    /// A partition of `engine`'s kind, without bus, interrupt controllers and hypervisor interface.
    pub fn new(engine: &Engine, setting: Setting<'_>) -> Result<Self, Error> {
        let Setting { config, memory, rom, shadow, code, clock, inspection, registry, hypervisor } = setting;
        Ok(match engine {
            Engine::Kvm(host) => {
                let partition = KvmPartition::new(KvmConfig {
                    host: Arc::clone(host),
                    processors: config.cpus,
                    memory: memory.clone(),
                    rom,
                    shadow,
                    clock: Arc::clone(clock),
                    hypervisor,
                    registry: Arc::clone(registry),
                })?;
                Self::Kvm(partition, Arc::clone(host))
            }
            Engine::Soft(tier, _) => Self::Soft(SoftPartition::new(SoftConfig {
                processors: config.cpus,
                memory: memory.clone(),
                rom,
                shadow,
                code: Arc::clone(code),
                clock: Arc::clone(clock),
                tier: *tier,
                inspection,
                registry: Arc::clone(registry),
            })),
        })
    }

    pub fn partition(&self) -> Arc<dyn Partition> {
        match self {
            Self::Kvm(partition, _) => Arc::clone(partition) as Arc<_>,
            Self::Soft(partition) => Arc::clone(partition) as Arc<_>,
        }
    }

    pub fn attach_bus(&self, bus: Arc<dyn Bus>) {
        match self {
            Self::Kvm(partition, _) => partition.attach_bus(bus),
            Self::Soft(partition) => partition.attach_bus(bus),
        }
    }

    pub fn attach_hypervisor(&self, hypervisor: Arc<dyn HypervisorInterface>) {
        match self {
            Self::Kvm(partition, _) => partition.attach_hypervisor(hypervisor),
            Self::Soft(partition) => partition.attach_hypervisor(hypervisor),
        }
    }

    /// Tells the kernel's local APICs of the controllers before them.
    pub fn attach_controllers(partition: &Arc<KvmPartition>, interrupts: &Interrupts) {
        partition.attach_controllers(
            Arc::clone(&interrupts.pic) as Arc<_>,
            Arc::clone(&interrupts.ioapic) as Arc<_>,
        );
        interrupts.ioapic.connect_listener(Arc::new(Inputs(Arc::downgrade(partition))));
    }

    /// The row of the device table.
    pub fn describe(&self, registry: &Registry, engine: &Engine) {
        let (partition, name) = (Arc::downgrade(&self.partition()), engine.to_string());
        registry.device("processors", Kind::Processor, move || {
            let count = partition.upgrade().and_then(|partition| partition.instructions());
            count.map_or_else(|| name.clone(), |count| format!("{name}, {count} instructions"))
        });
    }
}

/// How the inputs of the IOAPIC are set up, for KVM. The partition has the IOAPIC in turn.
struct Inputs(Weak<KvmPartition>);

impl InputListener for Inputs {
    fn input_set_up(&self, input: usize, message: Option<Message>) {
        if let Some(partition) = self.0.upgrade() {
            partition.set_ioapic_input(input, message);
        }
    }
}
