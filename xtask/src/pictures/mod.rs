//! `cargo xtask pictures`: the pictures that the documents show, made from the real program with real
//! captures, in namespaces of their own.
//!
//! A recording of a terminal is a `.cast`, which asciinema plays, and the `.svg` that is drawn from it, which
//! documents show. A page is a `.png`.

mod acts;
mod cast;
pub(crate) mod documents;
mod place;
mod shots;
mod story;
mod svg;
mod terminal;

use std::{
    ffi::OsStr,
    fs,
    os::unix::fs::lchown,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::{house, root, setup, test};
use acts::Picture;
use cast::{Cast, What};
use place::Place;

/// Where the pictures are, in the checkout.
const FOLDER: &str = "agent/manual/pictures";

/// Options of `cargo xtask pictures`
#[derive(Args)]
pub(crate) struct Options {
    /// Only this one; more of them by giving this again
    #[arg(long, value_enum, value_name = "NAME")]
    only: Vec<Picture>,
    /// Show this capwarden, and build none
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    /// Record nothing: draw the recordings that there are again
    #[arg(long, conflicts_with_all = ["only", "program"])]
    draw: bool,
    /// What the call in the namespaces is told, with where Node is
    #[arg(long, hide = true, value_name = "SUITE")]
    inside: Option<PathBuf>,
}

/// The verb.
pub(crate) fn main(options: &Options) -> Result<()> {
    if options.draw {
        return draw_again();
    }
    if let Some(suite) = &options.inside {
        let program = options.program.as_deref().context("no program")?;
        return inside(program, suite, &options.only);
    }
    if options.program.is_none() {
        setup::ensure()?;
        test::build_capwarden()?;
    }
    let program = options.program.clone();
    let program = program.unwrap_or_else(house::capwarden);
    let program =
        fs::canonicalize(&program).with_context(|| format!("there is no {}", program.display()))?;
    let mut arguments: Vec<&OsStr> =
        vec!["pictures".as_ref(), "--program".as_ref(), program.as_ref()];
    for picture in &options.only {
        arguments.extend(["--only", picture.name()].map(OsStr::new));
    }
    if !root::is_root() {
        let arguments: Option<Vec<&str>> = arguments.into_iter().map(OsStr::to_str).collect();
        return root::again(&arguments.context("the program's path is no text")?);
    }
    let suite = fs::canonicalize(house::suite()?)?;
    arguments.extend([OsStr::new("--inside"), suite.as_ref()]);
    let status = place::enter(&arguments)?;
    let owner = root::invoker();
    for file in files(&house::root().join(FOLDER))? {
        lchown(&file, Some(owner), None)?;
    }
    if !status.success() {
        bail!("not all pictures could be made; those that could are in {FOLDER}");
    }
    println!("look at them before they are committed: {FOLDER}");
    Ok(())
}

/// The pictures, where this may be done.
fn inside(program: &Path, suite: &Path, only: &[Picture]) -> Result<()> {
    let folder = house::root().join(FOLDER);
    fs::create_dir_all(&folder)?;
    let private = private()?;
    let place = Place::furnish(program)?;
    let wanted = |picture: &Picture| only.is_empty() || only.contains(picture);
    acts::play(&place, suite, &folder, wanted, |name, cast| {
        keep(&folder, name, cast, &private)
    })
}

/// What of this host and of who works on it is not to be in a picture.
fn private() -> Result<Vec<String>> {
    let host = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    let mut private = vec![
        house::root().display().to_string(),
        house::target().display().to_string(),
        host,
    ];
    private.extend(
        ["SUDO_USER", "USER"]
            .into_iter()
            .filter_map(|name| std::env::var(name).ok()),
    );
    private.retain(|word| {
        word.len() > 2 && !["root", "localhost", "alice", "bob"].contains(&word.as_str())
    });
    Ok(private)
}

/// Writes a recording and its picture.
fn keep(folder: &Path, name: &str, cast: &Cast, private: &[String]) -> Result<()> {
    let shown = cast.events.iter().filter_map(|event| match &event.what {
        What::Output(text) => Some(text.as_str()),
        What::Marker => None,
    });
    let shown: String = shown.collect();
    if let Some(word) = private.iter().find(|word| shown.contains(word.as_str())) {
        bail!("{word:?} would be in the picture {name}, and is of this host");
    }
    fs::write(folder.join(name).with_extension("cast"), cast.text())?;
    fs::write(folder.join(name).with_extension("svg"), svg::draw(cast))?;
    Ok(())
}

/// The picture of each recording, as it would be drawn now.
fn draw_again() -> Result<()> {
    for file in files(&house::root().join(FOLDER))? {
        if file.extension() == Some("cast".as_ref()) {
            let cast = Cast::parse(&fs::read_to_string(&file)?)
                .with_context(|| file.display().to_string())?;
            fs::write(file.with_extension("svg"), svg::draw(&cast))?;
        }
    }
    Ok(())
}

/// The files of a directory, by name.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut files: Vec<PathBuf> = entries
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    files.sort();
    Ok(files)
}
