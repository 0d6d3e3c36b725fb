//! The libraries' files on SQLite.

use std::{
    cell::RefCell,
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    rc::Rc,
};

use tempfile::TempDir;

use crate::{
    Result,
    cases::{Ground, Scenarios, install},
    cost::{Cost, processor_time},
    libraries::{Library, ON_SQLITE},
};

/// A folder, and the templates that are in it.
pub(crate) struct Sqlite {
    folder: PathBuf,
    templates: RefCell<HashMap<(&'static str, usize), Rc<TempDir>>>,
}

impl Sqlite {
    pub(crate) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), templates: RefCell::default() }
    }

    /// A folder with a file in which the library is installed and has so many messages.
    async fn template(&self, library: &Library, messages: usize) -> Result<Rc<TempDir>> {
        let key = (library.key, messages);
        if let Some(template) = self.templates.borrow().get(&key) {
            return Ok(template.clone());
        }
        let template = Rc::new(self.new_folder()?);
        install(library, &file(&template), messages).await?;
        self.templates.borrow_mut().insert(key, template.clone());
        Ok(template)
    }

    fn new_folder(&self) -> Result<TempDir> {
        Ok(TempDir::with_prefix_in("pgqrs-peers-", &self.folder)?)
    }
}

impl Ground for Sqlite {
    const SCENARIOS: Scenarios =
        Scenarios { enqueue: "sqlite-enqueue", drain: "sqlite-drain", pick_up: "sqlite-pick-up" };
    const LIBRARIES: &'static [Library] = ON_SQLITE;
    const CONSUMERS: usize = 1;

    async fn on_copy<T>(
        &self,
        library: &Library,
        messages: usize,
        work: impl AsyncFnOnce(&str) -> Result<T>,
    ) -> Result<T> {
        let (template, copy) = (self.template(library, messages).await?, self.new_folder()?);
        // With the write-ahead log, where a library has left it.
        for entry in fs::read_dir(template.path())? {
            let entry = entry?;
            fs::copy(entry.path(), copy.path().join(entry.file_name()))?;
        }
        work(&file(&copy)).await
    }

    async fn usage(&self, _: &str) -> Result<Cost> {
        // The libraries' programs have ended.
        Ok(Cost { client: processor_time("self").map(|(_, ended)| ended), ..Cost::default() })
    }
}

fn file(folder: &TempDir) -> String {
    folder.path().join("queue.db").display().to_string()
}
