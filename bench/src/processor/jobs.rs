//! The jobs, their classes, and what is asked of each class. What a job does is said in `guest/bench/jobs`.

/// A class of jobs that stress the same parts of a processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// From the start of the program to the first line of the guest's init.
    Boot,
    /// Compression and sorting.
    Integer,
    /// Digests and checksums.
    Hashing,
    /// AES and RSA.
    Cryptography,
    /// Double precision.
    FloatingPoint,
    /// Interpreters of scripts.
    Scripts,
    /// Fork and exec.
    Processes,
    /// System calls that do little.
    SystemCalls,
    /// Page faults, mmap and loads that miss.
    Paging,
    /// Pipes and context switches.
    Pipes,
    /// Files in the page cache.
    Files,
    /// Two processes at once, on one virtual processor and on two.
    Parallel,
}

impl Class {
    /// All, in the order of the report.
    pub const ALL: [Self; 12] = [
        Self::Boot,
        Self::Integer,
        Self::Hashing,
        Self::Cryptography,
        Self::FloatingPoint,
        Self::Scripts,
        Self::Processes,
        Self::SystemCalls,
        Self::Paging,
        Self::Pipes,
        Self::Files,
        Self::Parallel,
    ];

    /// How it is named in the report and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Boot => "boot",
            Self::Integer => "integer",
            Self::Hashing => "hashing",
            Self::Cryptography => "cryptography",
            Self::FloatingPoint => "floating-point",
            Self::Scripts => "scripts",
            Self::Processes => "processes",
            Self::SystemCalls => "system-calls",
            Self::Paging => "paging",
            Self::Pipes => "pipes",
            Self::Files => "files",
            Self::Parallel => "parallel",
        }
    }

    /// How many times as fast as QEMU TCG the translator should be, by the geometric mean of the class.
    pub fn bar(self) -> f64 {
        match self {
            Self::Integer => 2.0,
            Self::Hashing | Self::FloatingPoint => 4.0,
            Self::Cryptography => 10.0,
            Self::Processes | Self::SystemCalls => 3.0,
            _ => 1.0,
        }
    }
}

/// How many times as fast as QEMU TCG the translator should be, by the geometric mean of all jobs.
pub const OVERALL_BAR: f64 = 4.0;
/// How many times as fast two virtual processors should do what is done by two processes at once.
pub const TWO_PROCESSORS_BAR: f64 = 1.8;
/// Host memory that a machine should need at most beyond the guest's RAM, in MiB, when all jobs are done.
pub const MEMORY_BAR: f64 = 200.0;
/// What a guest that waits at its shell should cost at most, in percent of a host's core.
pub const IDLE_BAR: f64 = 2.0;

/// What a job's figure is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Seconds for the job: less is better.
    Seconds,
    /// Bytes a second: more is better.
    Bytes,
    /// Operations a second: more is better.
    Operations,
}

/// Something to be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Job {
    /// Its name in `guest/bench/jobs` and in the report.
    pub name: &'static str,
    /// What it stands for.
    pub class: Class,
    /// What its figure is.
    pub unit: Unit,
}

const fn job(name: &'static str, class: Class, unit: Unit) -> Job {
    Job { name, class, unit }
}

/// All jobs, by class. The guest does not know of `boot`: that is how long it took to come up.
pub const JOBS: [Job; 43] = [
    job("boot", Class::Boot, Unit::Seconds),
    job("gzip", Class::Integer, Unit::Seconds),
    job("gunzip", Class::Integer, Unit::Seconds),
    job("xz", Class::Integer, Unit::Seconds),
    job("zstd", Class::Integer, Unit::Seconds),
    job("bzip2", Class::Integer, Unit::Seconds),
    job("sort", Class::Integer, Unit::Seconds),
    job("qsort", Class::Integer, Unit::Seconds),
    job("sieve", Class::Integer, Unit::Seconds),
    job("7-zip", Class::Integer, Unit::Seconds),
    job("sha256", Class::Hashing, Unit::Seconds),
    job("md5", Class::Hashing, Unit::Seconds),
    job("b2", Class::Hashing, Unit::Seconds),
    job("crc", Class::Hashing, Unit::Seconds),
    job("sha256-ssl", Class::Hashing, Unit::Bytes),
    job("sha512-ssl", Class::Hashing, Unit::Bytes),
    job("aes-128-gcm", Class::Cryptography, Unit::Bytes),
    job("aes-256-cbc", Class::Cryptography, Unit::Bytes),
    job("rsa-2048-sign", Class::Cryptography, Unit::Operations),
    job("rsa-2048-verify", Class::Cryptography, Unit::Operations),
    job("nbody", Class::FloatingPoint, Unit::Seconds),
    job("matrix", Class::FloatingPoint, Unit::Seconds),
    job("mandelbrot", Class::FloatingPoint, Unit::Seconds),
    job("fourier", Class::FloatingPoint, Unit::Seconds),
    job("awk", Class::Scripts, Unit::Seconds),
    job("perl", Class::Scripts, Unit::Seconds),
    job("python", Class::Scripts, Unit::Seconds),
    job("bash", Class::Scripts, Unit::Seconds),
    job("fork", Class::Processes, Unit::Seconds),
    job("exec", Class::Processes, Unit::Seconds),
    job("shell", Class::Processes, Unit::Seconds),
    job("getppid", Class::SystemCalls, Unit::Seconds),
    job("files", Class::SystemCalls, Unit::Seconds),
    job("faults", Class::Paging, Unit::Seconds),
    job("mappings", Class::Paging, Unit::Seconds),
    job("chase", Class::Paging, Unit::Seconds),
    job("ping-pong", Class::Pipes, Unit::Seconds),
    job("stream", Class::Pipes, Unit::Seconds),
    job("file-read", Class::Files, Unit::Seconds),
    job("file-tree", Class::Files, Unit::Seconds),
    job("two-floats", Class::Parallel, Unit::Seconds),
    job("two-gzips", Class::Parallel, Unit::Seconds),
    job("two-shells", Class::Parallel, Unit::Seconds),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guest_knows_every_job() {
        let script = include_str!("../../../guest/bench/jobs");
        for job in JOBS.iter().filter(|job| job.class != Class::Boot) {
            assert!(script.contains(&format!("\n        {})", job.name)), "{}", job.name);
        }
    }
}
