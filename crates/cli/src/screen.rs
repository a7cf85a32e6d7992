//! `bodhi screenshot`, `bodhi type` and `bodhi key`.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use worker::control::{Reply, Request};

use crate::arguments::{ScreenshotArguments, Target};
use crate::client::{Error, connect, done, finish, unexpected};

pub(crate) fn screenshot(arguments: &ScreenshotArguments) -> ExitCode {
    finish(take(arguments))
}

fn take(ScreenshotArguments { target, text }: &ScreenshotArguments) -> Result<(), Error> {
    if *text {
        let (api, _) = target.split(None)?;
        return match ask(&api, &Request::ScreenText {})? {
            Reply::Text(text) => {
                // Nobody may be reading any more, as behind a pager that has been left.
                let _ = std::io::stdout().write_all(text.as_bytes());
                Ok(())
            }
            other => Err(unexpected(&other)),
        };
    }
    let (api, file) = target.split(Some("file"))?;
    match ask(&api, &Request::Screenshot {})? {
        Reply::Screenshot(png) => {
            let png = BASE64.decode(png)?;
            std::fs::write(&file, png).map_err(|error| Error::Input(file, error.to_string()))
        }
        other => Err(unexpected(&other)),
    }
}

pub(crate) fn type_text(target: &Target) -> ExitCode {
    finish(press(target, "text", |text| Request::Type { text }))
}

pub(crate) fn key(target: &Target) -> ExitCode {
    finish(press(target, "key", |keys| Request::Key { keys }))
}

fn press(target: &Target, what: &'static str, request: impl FnOnce(String) -> Request) -> Result<(), Error> {
    let (api, word) = target.split(Some(what))?;
    done(&mut connect(&api)?, &request(word))
}

fn ask(api: &Path, request: &Request) -> Result<Reply, Error> {
    Ok(connect(api)?.ask(request)?)
}
