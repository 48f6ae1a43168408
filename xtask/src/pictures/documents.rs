//! Which pictures documents show.

/// The files of the pictures that a document in Markdown shows, as it names them: `![words](file)` in a line of its own.
pub(crate) fn shown_in(document: &str) -> impl Iterator<Item = &str> {
    document.lines().filter_map(|line| {
        let (words, file) = line.strip_prefix("![")?.split_once("](")?;
        (!words.is_empty()).then(|| file.strip_suffix(')'))?
    })
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeSet,
        ffi::OsStr,
        fs,
        path::{Path, PathBuf},
    };

    use clap::ValueEnum as _;

    use super::{
        super::{FOLDER, acts::Picture, cast::Cast, files, svg},
        shown_in,
    };
    use crate::house;

    /// All together: they are fetched with the checkout, and installed.
    const MOST: u64 = 600 * 1024;

    /// Whatever may show a picture.
    fn documents() -> Vec<PathBuf> {
        let folders = ["", "policies", "agent/manual"];
        let files = folders.map(|folder| files(&house::root().join(folder)).unwrap());
        let mut documents = files.concat();
        documents.retain(|file| file.extension() == Some("md".as_ref()));
        documents
    }

    fn is(file: &Path, end: &str) -> bool {
        file.extension() == Some(end.as_ref())
    }

    #[test]
    fn pictures_are_told_from_links() {
        let text = "# A\n\n![What is seen](a/b.svg)\nsee [this](c.svg) and\n![](d.svg)\n";
        assert_eq!(shown_in(text).collect::<Vec<_>>(), ["a/b.svg"]);
    }

    #[test]
    fn documents_show_each_picture_and_none_that_there_is_not() {
        let mut shown = BTreeSet::new();
        for document in documents() {
            let text = fs::read_to_string(&document).unwrap();
            assert_eq!(
                text.matches("![").count(),
                shown_in(&text).count(),
                "{}: a picture is in a line of its own, and has words",
                document.display()
            );
            for file in shown_in(&text) {
                let file = document.parent().unwrap().join(file);
                assert!(file.is_file(), "{} shows {file:?}", document.display());
                shown.insert(file);
            }
        }
        let all = files(&house::root().join(FOLDER)).unwrap();
        let mut pictures = all.clone();
        pictures.retain(|file| !is(file, "cast"));
        assert_eq!(Vec::from_iter(shown), pictures);
        let size = |file: &PathBuf| fs::metadata(file).unwrap().len();
        let sum: u64 = all.iter().map(size).sum();
        assert!(sum <= MOST, "{sum} bytes of pictures");
    }

    #[test]
    fn pictures_are_those_that_are_made() {
        let made = Picture::value_variants();
        for picture in made {
            let called = picture.to_possible_value().unwrap();
            assert_eq!(called.get_name(), picture.name());
        }
        let mut there = files(&house::root().join(FOLDER)).unwrap();
        there.retain(|file| !is(file, "cast"));
        let there: BTreeSet<_> = there.iter().filter_map(|file| file.file_stem()).collect();
        let made = made.iter().map(|picture| OsStr::new(picture.name()));
        assert_eq!(there, made.collect());
    }

    #[test]
    fn each_recording_can_be_played_and_is_what_its_picture_shows() {
        let all = files(&house::root().join(FOLDER)).unwrap();
        let recordings: Vec<_> = all.iter().filter(|file| is(file, "cast")).collect();
        let drawn: Vec<_> = all.iter().filter(|file| is(file, "svg")).collect();
        assert_eq!(recordings.len(), drawn.len());
        for (recording, drawn) in recordings.into_iter().zip(drawn) {
            let cast = Cast::parse(&fs::read_to_string(recording).unwrap());
            let cast = cast.unwrap_or_else(|error| panic!("{recording:?}: {error:#}"));
            let picture = fs::read_to_string(drawn).unwrap();
            assert!(
                picture == svg::draw(&cast),
                "{drawn:?} is not drawn from {recording:?}: cargo xtask pictures --draw"
            );
        }
    }
}
