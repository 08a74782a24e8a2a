//! The layers of imports: each module imports from lower layers only, and no import cycle spans two folders.
//!
//! The section "Layers" of ARCHITECTURE.md defines the layers in a fenced block `layers CRATE` for each
//! crate, with one layer per line, the highest first. Modules on one line do not import each other. Imports
//! are all `use` lines and other paths in the sources, except in code that is compiled for tests only.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};
use syn::{
    Attribute, File, ImplItemFn, Item, ItemMod, ItemUse, Macro, UseTree, VisRestricted,
    visit::{self, Visit},
};

/// The path of a module or an item from the crate's root, without `crate`.
type ModulePath = Vec<String>;

/// The modules of a crate, by their paths. A module inside a file belongs to that file's module.
struct Sources(BTreeMap<ModulePath, Module>);

/// A module that is a file.
#[derive(Default)]
struct Module {
    /// The path of the file below the crate's `src`.
    file: PathBuf,
    /// The folder that the module belongs to: its own if it has submodules, else its parent's.
    folder: ModulePath,
    /// The names that its `use` lines bring into scope, with the paths that they refer to.
    names: BTreeMap<String, ModulePath>,
    /// The paths in this crate that the module refers to.
    imports: BTreeSet<ModulePath>,
}

impl Sources {
    fn read(src: &Path) -> Self {
        let mut sources = Self(BTreeMap::new());
        sources.read_module(src, Path::new("lib.rs"), &[]);
        sources
    }

    fn read_module(&mut self, src: &Path, file: &Path, path: &[String]) {
        let text = fs::read_to_string(src.join(file)).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        let parsed: File = syn::parse_str(&text).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        let mut reader =
            Reader { path: path.to_vec(), children: submodules(&parsed.items), module: Module::default() };
        reader.visit_file(&parsed);
        let Reader { children, mut module, .. } = reader;
        module.file = file.to_path_buf();
        let depth = if children.is_empty() { path.len().saturating_sub(1) } else { path.len() };
        module.folder = path[..depth].to_vec();
        let folder = match file.file_stem().and_then(|stem| stem.to_str()) {
            Some("lib" | "mod") => file.parent().unwrap().to_path_buf(),
            _ => file.with_extension(""),
        };
        self.0.insert(path.to_vec(), module);
        for child in children {
            let candidates = [folder.join(format!("{child}.rs")), folder.join(&child).join("mod.rs")];
            let file = candidates.iter().find(|file| src.join(file).is_file());
            let file = file.unwrap_or_else(|| panic!("no file for module {child} of {path:?}"));
            self.read_module(src, file, &[path, &[child]].concat());
        }
    }

    /// Returns the module that defines the item at a path, following re-exports.
    fn defining_module(&self, path: &[String]) -> ModulePath {
        let mut path = path.to_vec();
        // A module may re-export a name that another module re-exports.
        for _ in 0..8 {
            let depth = (0..=path.len()).rev().find(|depth| self.0.contains_key(&path[..*depth])).unwrap();
            let (module, rest) = path.split_at(depth);
            let source = rest.first().and_then(|name| self.0[module].names.get(name));
            match source {
                Some(source) => path = [source, &rest[1..]].concat(),
                None => return module.to_vec(),
            }
        }
        panic!("{path:?} is re-exported in a cycle");
    }

    /// Returns the violations of these layers, one sentence each.
    fn violations(&self, layers: &Layers) -> BTreeSet<String> {
        let mut found = Vec::new();
        let present: BTreeSet<&str> = self.0.keys().filter_map(|path| Some(path.first()?.as_str())).collect();
        let listed: BTreeSet<&str> = layers.0.iter().flatten().map(String::as_str).collect();
        found.extend(present.difference(&listed).map(|module| format!("{module} is in no layer")));
        found.extend(
            listed.difference(&present).map(|module| format!("{module} is in a layer, but does not exist")),
        );
        let mut found = BTreeSet::from_iter(found);
        for (from, module) in self.0.iter().filter(|(from, _)| !from.is_empty()) {
            for path in module.imports.iter().filter(|path| !path.is_empty()) {
                if !self.0.contains_key(&path[..1]) {
                    found.insert(format!(
                        "{} uses {} through the crate's root instead of its own module",
                        module.file.display(),
                        path.join("::")
                    ));
                    continue;
                }
                let to = self.defining_module(path);
                let [above, below] = [from, &to].map(|path| layers.of(&path[0]));
                if from[0] != to[0] && above >= below {
                    let file = module.file.display();
                    found.insert(format!("{file} uses {}, which is not in a lower layer", to.join("::")));
                }
            }
        }
        found
    }

    /// Returns the imports that belong to a cycle through more than one folder, one sentence each. Imports of
    /// a folder's own module from the folder do not count.
    fn cycles(&self) -> BTreeSet<String> {
        let mut imports: BTreeMap<&ModulePath, BTreeSet<ModulePath>> = BTreeMap::new();
        for (from, module) in &self.0 {
            let used = module.imports.iter().map(|path| self.defining_module(path));
            imports.insert(from, used.filter(|to| !to.starts_with(from)).collect());
        }
        let reachable_from = |start: &ModulePath| {
            let mut seen = BTreeSet::new();
            let mut waiting = vec![start.clone()];
            while let Some(module) = waiting.pop() {
                waiting.extend(imports[&module].iter().filter(|to| seen.insert((*to).clone())).cloned());
            }
            seen
        };
        let mut cycles = BTreeSet::new();
        for (from, used) in &imports {
            for to in used.iter().filter(|to| self.0[*from].folder != self.0[*to].folder) {
                if reachable_from(to).contains(*from) {
                    cycles.insert(format!(
                        "{} uses {}, in a cycle",
                        self.0[*from].file.display(),
                        to.join("::")
                    ));
                }
            }
        }
        cycles
    }
}

/// Returns the names of the modules that are declared here and have files of their own.
fn submodules(items: &[Item]) -> Vec<String> {
    let declared = items.iter().filter_map(|item| match item {
        Item::Mod(module) if module.content.is_none() && !is_for_tests(&module.attrs) => {
            Some(module.ident.to_string())
        }
        _ => None,
    });
    declared.collect()
}

fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute.parse_args::<syn::Ident>().is_ok_and(|name| name == "test")
    })
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

/// A visitor that collects the imports of one file.
struct Reader {
    /// The path of the module at the current position in the file.
    path: ModulePath,
    children: Vec<String>,
    module: Module,
}

impl Reader {
    /// Returns a path from the crate's root, or nothing for a path into another crate.
    fn absolute(&self, path: &[String]) -> Option<ModulePath> {
        let (first, rest) = path.split_first()?;
        match first.as_str() {
            "crate" => Some(rest.to_vec()),
            "self" => Some([&self.path, rest].concat()),
            "super" => {
                let mut above = self.path.clone();
                above.pop();
                let levels = rest.iter().take_while(|name| *name == "super").count();
                above.truncate(above.len() - levels);
                Some([&above, &rest[levels..]].concat())
            }
            child if self.children.iter().any(|name| name == child) => Some([&self.path, path].concat()),
            name => Some([self.module.names.get(name)?, rest].concat()),
        }
    }

    fn import(&mut self, path: &[String]) {
        if let Some(path) = self.absolute(path) {
            self.module.imports.insert(path);
        }
    }

    fn use_tree(&mut self, tree: &UseTree, before: &[String]) {
        let (source, name) = match tree {
            UseTree::Path(path) => {
                let before = [before, &[path.ident.to_string()]].concat();
                return self.use_tree(&path.tree, &before);
            }
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.use_tree(tree, before);
                }
                return;
            }
            UseTree::Glob(_) => return self.import(before),
            UseTree::Name(name) if name.ident == "self" => (before.to_vec(), before.last().cloned()),
            UseTree::Name(name) => {
                let name = name.ident.to_string();
                ([before, std::slice::from_ref(&name)].concat(), Some(name))
            }
            UseTree::Rename(rename) => {
                let source = [before, &[rename.ident.to_string()]].concat();
                (source, Some(rename.rename.to_string()))
            }
        };
        self.import(&source);
        if let (Some(source), Some(name)) = (self.absolute(&source), name) {
            self.module.names.insert(name, source);
        }
    }
}

impl<'ast> Visit<'ast> for Reader {
    fn visit_file(&mut self, file: &'ast File) {
        // `use` lines first, because a name may be used above the line that brings it into scope.
        for item in &file.items {
            if let Item::Use(item) = item
                && !is_for_tests(&item.attrs)
            {
                self.visit_item_use(item);
            }
        }
        for item in file.items.iter().filter(|item| !matches!(item, Item::Use(_))) {
            self.visit_item(item);
        }
    }

    fn visit_item(&mut self, item: &'ast Item) {
        if !is_for_tests(attributes(item)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, item: &'ast ImplItemFn) {
        if !is_for_tests(&item.attrs) {
            visit::visit_impl_item_fn(self, item);
        }
    }

    fn visit_item_mod(&mut self, module: &'ast ItemMod) {
        if module.content.is_some() {
            self.path.push(module.ident.to_string());
            visit::visit_item_mod(self, module);
            self.path.pop();
        }
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        self.use_tree(&item.tree, &[]);
    }

    fn visit_vis_restricted(&mut self, _: &'ast VisRestricted) {}

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names: ModulePath = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        if names.len() > 1 && path.leading_colon.is_none() {
            self.import(&names);
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast Macro) {
        // The arguments of a macro need not parse as Rust, but paths in them look the same as elsewhere.
        let text = call.tokens.to_string().replace(" :: ", "::");
        for word in text.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')) {
            let names: ModulePath = word.split("::").map(ToString::to_string).collect();
            if names.len() > 1 && names.iter().all(|name| !name.is_empty() && !name.contains(':')) {
                self.import(&names);
            }
        }
        visit::visit_macro(self, call);
    }
}

/// The layers of a crate, from the highest to the lowest.
struct Layers(Vec<Vec<String>>);

impl Layers {
    /// Reads the layers of a crate from the text of ARCHITECTURE.md.
    fn read(text: &str, name: &str) -> Self {
        let fence = format!("```layers {name}\n");
        let (_, block) = text.split_once(&fence).unwrap_or_else(|| panic!("no layers of {name}"));
        let (block, _) = block.split_once("```").unwrap();
        let layer = |line: &str| line.split(',').map(|module| module.trim().to_string()).collect();
        Self(block.lines().map(layer).collect())
    }

    fn of(&self, module: &str) -> Option<usize> {
        self.0.iter().position(|layer| layer.iter().any(|name| name == module))
    }
}

#[track_caller]
fn assert_layered(name: &str, folder: &str) {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let text = fs::read_to_string(workspace.join("ARCHITECTURE.md")).unwrap();
    let sources = Sources::read(&workspace.join(folder).join("src"));
    let mut violations = sources.violations(&Layers::read(&text, name));
    violations.extend(sources.cycles());
    assert!(violations.is_empty(), "{name}:\n{}", violations.into_iter().collect::<Vec<_>>().join("\n"));
}

#[test]
fn the_orchestrator_keeps_its_layers() {
    assert_layered("testbed", "orchestrator");
}

#[test]
fn netem_keeps_its_layers() {
    assert_layered("netem", "netem");
}

#[test]
fn the_stressor_keeps_its_layers() {
    assert_layered("stressor", "stressor");
}

#[test]
fn violations_and_cycles_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let write = |file: &str, text: &str| {
        let path = dir.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    write("lib.rs", "pub mod high; pub mod low; mod beside; pub use beside::Item;");
    write("high/mod.rs", "pub mod inner; use crate::low; use inner::Inner; fn f() { low::g() }");
    write("high/inner.rs", "pub mod deep; pub use deep::Deep; pub struct Inner;");
    write("high/inner/deep.rs", "pub struct Deep(super::super::Other);");
    write(
        "low.rs",
        "use crate::{Item, beside::{self, X}};\n#[cfg(test)]\nmod tests { use crate::beside::f; }\n\
         fn g() { println!(\"{}\", crate::high::f()); }\n#[cfg(test)]\nuse crate::high::Deep;\n",
    );
    write("beside.rs", "#[cfg(test)]\nmod tests;\npub struct X(std::io::Error);\n");
    let sources = Sources::read(dir.path());
    let layers = Layers::read("```layers x\nhigh\nlow, beside, gone\n```\n", "x");
    let list = |found: BTreeSet<String>| found.into_iter().collect::<Vec<_>>();
    assert_eq!(
        list(sources.violations(&layers)),
        [
            "gone is in a layer, but does not exist",
            "low.rs uses Item through the crate's root instead of its own module",
            "low.rs uses beside, which is not in a lower layer",
            "low.rs uses high, which is not in a lower layer",
        ]
    );
    assert_eq!(list(sources.cycles()), ["high/mod.rs uses low, in a cycle", "low.rs uses high, in a cycle"]);
    write("high/inner/deep.rs", "pub struct Deep(super::super::other::Other);");
    write("high/mod.rs", "pub mod inner; pub mod other;");
    write("high/other.rs", "pub use super::inner::deep::Deep; pub struct Other;");
    assert_eq!(
        list(Sources::read(dir.path()).cycles()),
        [
            "high/inner/deep.rs uses high::other, in a cycle",
            "high/other.rs uses high::inner::deep, in a cycle"
        ]
    );
}
