//! Programs of the host.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fs};

use crate::Error;

/// Where administrators' programs are, which an ordinary user's PATH may not have.
const FURTHER: [&str; 2] = ["/usr/sbin", "/sbin"];

/// A program that must be there, and the package that brings it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Program {
    pub(crate) name: &'static str,
    pub(crate) package: &'static str,
}

impl Program {
    /// Its path.
    ///
    /// # Errors
    /// When the host does not have it.
    pub(crate) fn find(self) -> Result<PathBuf, Error> {
        let path = env::var_os("PATH").unwrap_or_default();
        let folders = env::split_paths(&path).chain(FURTHER.map(PathBuf::from));
        let mut found = folders.map(|folder| folder.join(self.name)).filter(|program| program.is_file());
        found.next().ok_or(Error::Missing { program: self.name, package: self.package })
    }

    /// Runs `command`, which is this program, with all that it prints in the file `log`.
    ///
    /// # Errors
    /// When it cannot be started or does not succeed.
    pub(crate) fn run(self, command: &mut Command, log: &Path) -> Result<(), Error> {
        let file = File::options().create(true).append(true).open(log).map_err(Error::file(log))?;
        let copy = file.try_clone().map_err(Error::file(log))?;
        let status = command.stdin(Stdio::null()).stdout(file).stderr(copy).status();
        let status = status.map_err(Error::file(Path::new(command.get_program())))?;
        if status.success() {
            return Ok(());
        }
        let said = fs::read(log).map_err(Error::file(log))?;
        let said = complaint(&String::from_utf8_lossy(&said)).unwrap_or_else(|| status.to_string());
        Err(Error::Failed { program: self.name, said, log: log.to_owned() })
    }
}

/// The line of `log` that most likely says what went wrong: the last one that calls itself an error, or the last one.
fn complaint(log: &str) -> Option<String> {
    let lines = || log.lines().rev().map(str::trim).filter(|line| !line.is_empty());
    let error = lines().find(|line| line.starts_with("E: ") && !line.contains("failed to execute"));
    error.or_else(|| lines().next()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHELL: Program = Program { name: "sh", package: "dash" };

    #[test]
    fn a_missing_program_is_named_with_its_package() {
        let error = Program { name: "no-such-program", package: "nothing" }.find().unwrap_err();
        assert_eq!(error.to_string(), "no-such-program is missing: install the package nothing");
    }

    #[test]
    fn a_failure_tells_the_last_error_and_where_the_rest_is() {
        let folder = tempfile::TempDir::new().unwrap();
        let log = folder.path().join("log");
        let mut command = Command::new(SHELL.find().unwrap());
        command.args(["-c", "echo one; echo 'E: no disk' >&2; echo I: cleaning up; exit 3"]);
        let error = SHELL.run(&mut command, &log).unwrap_err().to_string();
        assert_eq!(error, format!("sh failed: E: no disk; all it said is in {}", log.display()));
        let mut command = Command::new(SHELL.find().unwrap());
        SHELL.run(command.args(["-c", "exit 0"]), &log).unwrap();
    }
}
