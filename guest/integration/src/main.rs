//! `bodhi-integration`: one service of a guest's side of the integration services, in the foreground.

use std::process::ExitCode;

use bodhi_integration::{Backup, FileCopy, KeyValue, serve, uio};

const USAGE: &str = "usage: bodhi-integration key-value | backup | file-copy

Serves the host until the kernel's device goes; units of systemd start it when the device comes.

  key-value   strings between host and guest, name, system and addresses   /dev/vmbus/hv_kvp
  backup      file systems stand still for a copy of the disks             /dev/vmbus/hv_vss
  file-copy   files from the host                                          /dev/vmbus/hv_fcopy, since Linux 6.10 /dev/uioN

  --version   print the version
";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let served = match words[..] {
        ["key-value"] => KeyValue::new().and_then(serve),
        ["backup"] => Backup::new().and_then(serve),
        ["file-copy"] if uio::is_needed() => uio::serve(FileCopy::default()),
        ["file-copy"] => serve(FileCopy::default()),
        ["--version"] => {
            println!("bodhi-integration {}", env!("CARGO_PKG_VERSION"));
            return ExitCode::SUCCESS;
        }
        ["--help" | "-h"] => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        _ => {
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bodhi-integration: {error:#}");
            ExitCode::FAILURE
        }
    }
}
