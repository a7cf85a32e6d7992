//! `bodhi image`, and the disc of `bodhi setup-disk`.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use guest_image::cache::Cache;
use guest_image::debian::{self, Recipe};
use guest_image::setup_disk;
use machine::config::InputError;
use thiserror::Error;

use crate::arguments::{DebianArguments, ImageCommand, SetupDiskArguments, SystemCommand};
use crate::integration;
use crate::{BAD_INPUT, FAILED, complain, say};

#[derive(Debug, Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    Input(#[from] InputError),
    #[error(transparent)]
    Image(#[from] guest_image::Error),
}

pub(crate) fn image(command: &ImageCommand) -> ExitCode {
    let built = match command {
        ImageCommand::Build(SystemCommand::Debian(arguments)) => build(arguments),
        ImageCommand::Build(SystemCommand::SetupDisk(arguments)) => build_setup_disk(arguments),
        ImageCommand::Backup(target) => return integration::back_up(target),
    };
    match built {
        Ok(path) => {
            // Nobody may be reading any more, as behind a pager that has been left.
            let _ = io::stdout().write_all(format!("{}\n", path.display()).as_bytes());
            ExitCode::SUCCESS
        }
        Err(failure) => {
            complain(&failure);
            failure.exit_code()
        }
    }
}

impl Failure {
    pub(crate) fn exit_code(&self) -> ExitCode {
        let bad_input = matches!(self, Self::Input(_) | Self::Image(guest_image::Error::Input { .. }));
        ExitCode::from(if bad_input { BAD_INPUT } else { FAILED })
    }
}

fn open_cache(folder: Option<&PathBuf>) -> Result<Cache, Failure> {
    let folder = folder.cloned().or_else(Cache::usual);
    let folder = folder
        .ok_or_else(|| InputError::bare("cache", "is required: neither HOME nor XDG_CACHE_HOME is set"))?;
    Ok(Cache::open(folder)?)
}

/// The setup disk in `cache` or the usual one, where it stays as it is.
pub(crate) fn setup_disk(cache: Option<&PathBuf>) -> Result<PathBuf, Failure> {
    Ok(setup_disk::build(&open_cache(cache)?)?)
}

fn build_setup_disk(arguments: &SetupDiskArguments) -> Result<PathBuf, Failure> {
    let SetupDiskArguments { output, force, cache } = arguments;
    let Some(output) = output else { return setup_disk(cache.as_ref()) };
    check_output(output, *force)?;
    let cache = open_cache(cache.as_ref())?;
    cache.copy(&setup_disk::build(&cache)?, output)?;
    Ok(output.clone())
}

fn build(arguments: &DebianArguments) -> Result<PathBuf, Failure> {
    let recipe = recipe(arguments)?;
    recipe.check()?;
    if let Some(output) = &arguments.output {
        check_output(output, arguments.force)?;
    }
    let cache = open_cache(arguments.cache.as_ref())?;
    let image = debian::build(&recipe, &cache, &|step| say(format_args!("bodhi: {step}\n")))?;
    match &arguments.output {
        Some(output) => {
            cache.copy(&image, output)?;
            Ok(output.clone())
        }
        None => Ok(image),
    }
}

fn recipe(arguments: &DebianArguments) -> Result<Recipe, InputError> {
    let ssh_key = arguments.ssh_key.as_ref().map(|path| {
        let text = std::fs::read_to_string(path).map_err(|error| InputError::io("ssh-key", path, &error))?;
        Ok(text.trim_end().to_owned())
    });
    Ok(Recipe {
        suite: arguments.suite.clone(),
        size: arguments.size.0,
        user: arguments.user.clone(),
        password: arguments.password.clone(),
        ssh_key: ssh_key.transpose()?,
        hostname: arguments.hostname.clone(),
        packages: arguments.packages.clone(),
        mirror: arguments.mirror.clone(),
    })
}

/// Before minutes of work: whether there is a place for their fruit.
fn check_output(output: &Path, force: bool) -> Result<(), InputError> {
    if output.exists() && !force {
        return Err(InputError::file("output", output, "is there already; --force replaces it"));
    }
    if output.is_dir() {
        return Err(InputError::file("output", output, "is a directory"));
    }
    let parent = output.parent().filter(|parent| !parent.as_os_str().is_empty());
    match parent {
        Some(parent) if !parent.is_dir() => {
            Err(InputError::file("output", output, "there is no such directory"))
        }
        _ => Ok(()),
    }
}
