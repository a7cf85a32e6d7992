//! `bodhi`: the command line. It says what the user wants in terms of the libraries, and no more.
//!
//! Exit codes: 0 the guest has powered off; 1 the worker or the guest failed; 2 bad usage or input.
#![forbid(unsafe_code)]

mod arguments;
mod client;
mod devices;
mod disks;
mod doctor;
mod image;
mod integration;
mod logs;
mod nets;
mod run;
mod screen;

use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;

use arguments::Command;

/// The worker or the guest failed.
const FAILED: u8 = 1;
/// Bad usage or input.
const BAD_INPUT: u8 = 2;

fn main() -> ExitCode {
    let command = match arguments::from_command_line() {
        Ok(command) => command,
        Err(exit) => return exit,
    };
    logs::start();
    match command {
        Command::Run(arguments) => run::run(&arguments),
        Command::Doctor => doctor::doctor(),
        Command::Devices(arguments) => devices::devices(&arguments),
        Command::Disk(command) => disks::disk(&command),
        Command::Disc(command) => disks::disc(&command),
        Command::SetupDisk(command) => disks::setup_disk(&command),
        Command::Net(command) => nets::net(&command),
        Command::Image(command) => image::image(&command),
        Command::Screenshot(arguments) => screen::screenshot(&arguments),
        Command::Type(target) => screen::type_text(&target),
        Command::Key(target) => screen::key(&target),
        Command::Copy(arguments) => integration::copy(&arguments),
        Command::Shutdown(arguments) => integration::shutdown(&arguments),
        Command::Integration(arguments) => integration::integration(&arguments),
    }
}

/// Tells an error and its causes.
fn complain(error: &dyn Error) {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let part = error.to_string();
        // Some errors repeat their cause in their own words.
        if !text.contains(&part) {
            text = format!("{text}: {part}");
        }
        cause = error.source();
    }
    say(format_args!("bodhi: {text}\n"));
}

/// Writes to standard error. The terminal may have gone away, which is no reason to fail.
fn say(text: std::fmt::Arguments<'_>) {
    let _ = io::stderr().write_fmt(text);
}
