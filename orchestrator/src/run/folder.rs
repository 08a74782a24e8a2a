//! Checks whether the folder for migration files can hold them.

use crate::{
    driver::qemu::disk,
    lab::Lab,
    matrix::{Cell, Settings},
    mode::Mode,
    node::{
        NodeError,
        protocol::{DiskName, ProcessSpec, disk_path},
    },
};
use std::path::Path;
use units::Bytes;

/// The abilities that the folder lacks.
#[derive(Debug, Default)]
pub(super) struct Lacks {
    /// No file can be created there, for this reason.
    file: Option<String>,
    /// Files there cannot be written by direct I/O, for this reason.
    direct_io: Option<String>,
}

impl Lacks {
    /// Tests the source's folder: the one that all hosts share, if there is one. Does nothing unless one of
    /// the cells needs it.
    pub(super) async fn find(cells: &[&Cell], lab: &Lab) -> Self {
        let of_file = |cell: &&&Cell| cell.settings.migrate.mode == Mode::File;
        let mut cells = cells.iter().filter(of_file).peekable();
        if cells.peek().is_none() {
            return Self::default();
        }
        let directly = cells.any(|cell| cell.settings.migrate.direct_io);
        let (folder, name) = disk::place(lab.description.images.as_deref());
        match try_folder(lab, folder, name, directly).await {
            Ok(refused) => {
                let named = |why| {
                    format!("the file system of {} does not support direct I/O: {why}", folder.display())
                };
                Self { file: None, direct_io: refused.map(named) }
            }
            Err(error) if lab.description.images.is_some() => {
                let need = format!("all hosts have to share {}, the folder `images`", folder.display());
                Self { file: Some(format!("{error}; {need} of the inventory")), direct_io: None }
            }
            Err(error) => Self { file: Some(error.to_string()), direct_io: None },
        }
    }

    /// Returns why a cell with these settings cannot be attempted.
    pub(super) fn reason(&self, settings: &Settings) -> Option<String> {
        let migrate = &settings.migrate;
        let direct_io = self.direct_io.as_ref().filter(|_| migrate.direct_io);
        self.file.as_ref().or(direct_io).filter(|_| migrate.mode == Mode::File).cloned()
    }
}

/// Creates a file in a folder at the source and opens it at the destination. With `directly`, also writes it
/// by direct I/O, and returns why that fails, if it does.
///
/// # Errors
///
/// The file cannot be created or opened.
async fn try_folder(
    lab: &Lab,
    folder: &Path,
    name: DiskName,
    directly: bool,
) -> Result<Option<String>, NodeError> {
    let node = &lab.source.node;
    let file = node.create_disk(folder, name, Bytes::ZERO, Bytes::ZERO).await?;
    lab.destination.node.open_disk(file.path()).await?;
    if !directly {
        return Ok(None);
    }
    let to = format!("of={}", disk_path(0));
    let args = ["if=/dev/zero", &to, "oflag=direct", "bs=1M", "count=1", "status=none"];
    let (args, disks) = (args.map(Into::into).into(), vec![file.number()]);
    let dd = ProcessSpec { program: "dd".into(), args, disks, ..ProcessSpec::default() };
    let (said, status) = node.spawn(dd).await?.end().await?;
    if status.is_success() {
        return Ok(None);
    }
    let reason = |line: &String| line.rsplit(": ").next().unwrap_or(line).to_owned();
    Ok(Some(said.last().map_or_else(|| status.to_string(), reason)))
}
