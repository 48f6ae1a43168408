//! A libpcap to link in: its own sources, of Debian's archive, with the compiler of filters and the reading
//! of files. What is left out would need libraries of a host: D-Bus, USB, Bluetooth and RDMA sources, netlink.

use std::{env, fs, path::PathBuf, process::Command};

use anyhow::{Context, Result, bail};

use super::sha256;
use crate::{
    apt::{self, Apt},
    house,
    term::Progress,
};

/// Its version, the one of Debian 12: filters mean the same wherever they are compiled.
pub(super) const VERSION: &str = "1.10.3";
/// Of its source archive.
pub(super) const SHA256: &str = "2a8885c403516cf7b0933ed4b14d6caa30e02052489ebd414dc75ac52e7559e6";
/// Its terms.
pub(super) const LICENCE: &str = include_str!("libpcap-licence.txt");

/// Debian's name for it.
const PACKAGE: &str = "libpcap=1.10.3-1";

/// What is left out.
const WITHOUT: [&str; 8] = [
    "--disable-shared",
    "--disable-bluetooth",
    "--disable-dbus",
    "--disable-netmap",
    "--disable-rdma",
    "--disable-remote",
    "--disable-usb",
    "--without-libnl",
];

/// A directory with nothing but `libpcap.a` in it. It is built once, in half a minute.
pub(super) fn obtain(progress: &Progress) -> Result<PathBuf> {
    let home = house::tools().join(format!("libpcap-{VERSION}"));
    if home.join("libpcap.a").exists() {
        return Ok(home);
    }
    let build = home.with_extension("build");
    let _ = fs::remove_dir_all(&build);
    let apt = Apt::apart(progress, &build.join("apt"), apt::RELEASE)?;
    apt.source(progress, PACKAGE, &build).context(
        "libpcap's source cannot be had; let http://deb.debian.org be reached, then run this again",
    )?;
    let archive = build.join(format!("libpcap_{VERSION}.orig.tar.gz"));
    let sum = sha256(&archive)?;
    if sum != SHA256 {
        bail!(
            "{} has the SHA-256 {sum}, and should have {SHA256}",
            archive.display()
        );
    }
    let mut tar = Command::new("tar");
    tar.arg("--extract").arg("--file").arg(&archive);
    progress.run(tar.arg("--no-same-owner").arg("--directory").arg(&build))?;

    let source = build.join(format!("libpcap-{VERSION}"));
    let flags = format!("-O2 -fPIC -ffile-prefix-map={}=libpcap", source.display());
    let mut configure = Command::new("./configure");
    configure
        .current_dir(&source)
        .args(WITHOUT)
        .env("CFLAGS", flags);
    progress.run(&mut configure)?;
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    let mut make = Command::new("make");
    make.current_dir(&source)
        .arg(format!("-j{jobs}"))
        .arg("libpcap.a");
    for (name, _) in env::vars_os() {
        // cargo's own job server is none for this make.
        if ["MAKEFLAGS", "MFLAGS", "CARGO_MAKEFLAGS"]
            .iter()
            .any(|own| name == *own)
        {
            make.env_remove(name);
        }
    }
    progress.run(&mut make)?;
    let _ = fs::remove_dir_all(&home);
    fs::create_dir_all(&home).with_context(|| format!("cannot make {}", home.display()))?;
    fs::rename(source.join("libpcap.a"), home.join("libpcap.a"))?;
    fs::remove_dir_all(&build)?;
    Ok(home)
}
