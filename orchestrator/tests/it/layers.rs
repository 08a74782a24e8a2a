//! The order of imports: each module imports from lower layers only, and no circle of imports spans two
//! folders.
//!
//! The layers are those of ARCHITECTURE.md's section "Layers": a fenced block `layers CRATE` for each crate,
//! a layer a line, the highest first. Modules in one line do not import each other. `use` lines and other
//! paths are read from the sources; what is compiled for tests only does not count.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};
use syn::{
    Attribute, File, ImplItemFn, Item, ItemMod, ItemUse, Macro, UseTree, VisRestricted,
    visit::{self, Visit},
};

/// A path from the crate's root, without `crate`.
type ModulePath = Vec<String>;

/// The modules of a crate, by their paths. Modules within a file are part of that file's.
struct Sources(BTreeMap<ModulePath, Module>);

/// A file of source text.
#[derive(Default)]
struct Module {
    /// The file, from the crate's `src`.
    file: PathBuf,
    /// The folder that it belongs to: for a module that has submodules, theirs.
    folder: ModulePath,
    /// The names that its `use` lines bring in, with where they come from.
    names: BTreeMap<String, ModulePath>,
    /// The paths in this crate that it names.
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
            let place = [folder.join(format!("{child}.rs")), folder.join(&child).join("mod.rs")];
            let file = place.iter().find(|file| src.join(file).is_file());
            let file = file.unwrap_or_else(|| panic!("there is no file of the module {path:?} {child}"));
            self.read_module(src, file, &[path, &[child]].concat());
        }
    }

    /// The module in which a path's last name is defined, as far as the path is one of modules.
    fn defining(&self, path: &[String]) -> ModulePath {
        let mut path = path.to_vec();
        // A name may be passed on by a module, and again by the next.
        for _ in 0..8 {
            let depth = (0..=path.len()).rev().find(|depth| self.0.contains_key(&path[..*depth])).unwrap();
            let (module, rest) = path.split_at(depth);
            let source = rest.first().and_then(|name| self.0[module].names.get(name));
            match source {
                Some(source) => path = [source, &rest[1..]].concat(),
                None => return module.to_vec(),
            }
        }
        panic!("{path:?} is passed on in a circle");
    }

    /// Which imports do not run down these layers.
    fn against(&self, layers: &Layers) -> BTreeSet<String> {
        let mut wrong = Vec::new();
        let there: BTreeSet<&str> = self.0.keys().filter_map(|path| Some(path.first()?.as_str())).collect();
        let listed: BTreeSet<&str> = layers.0.iter().flatten().map(String::as_str).collect();
        wrong.extend(there.difference(&listed).map(|module| format!("{module} is in no layer")));
        wrong
            .extend(listed.difference(&there).map(|module| format!("{module} is in a layer, but not there")));
        let mut wrong = BTreeSet::from_iter(wrong);
        for (from, module) in self.0.iter().filter(|(from, _)| !from.is_empty()) {
            for path in module.imports.iter().filter(|path| !path.is_empty()) {
                if !self.0.contains_key(&path[..1]) {
                    wrong.insert(format!(
                        "{} uses {} by the crate's root, not by its own module",
                        module.file.display(),
                        path.join("::")
                    ));
                    continue;
                }
                let to = self.defining(path);
                let [above, below] = [from, &to].map(|path| layers.of(&path[0]));
                if from[0] != to[0] && above >= below {
                    let file = module.file.display();
                    wrong.insert(format!("{file} uses {} against the layers", to.join("::")));
                }
            }
        }
        wrong
    }

    /// Circles of imports that more than one folder takes part in. What a folder's own module uses of the
    /// folder is part of none.
    fn circles(&self) -> BTreeSet<String> {
        let mut next: BTreeMap<&ModulePath, BTreeSet<ModulePath>> = BTreeMap::new();
        for (from, module) in &self.0 {
            let used = module.imports.iter().map(|path| self.defining(path));
            next.insert(from, used.filter(|to| !to.starts_with(from)).collect());
        }
        let reached = |start: &ModulePath| {
            let mut seen = BTreeSet::new();
            let mut waiting = vec![start.clone()];
            while let Some(module) = waiting.pop() {
                waiting.extend(next[&module].iter().filter(|to| seen.insert((*to).clone())).cloned());
            }
            seen
        };
        let mut circles = BTreeSet::new();
        for (from, used) in &next {
            for to in used.iter().filter(|to| self.0[*from].folder != self.0[*to].folder) {
                if reached(to).contains(*from) {
                    circles.insert(format!(
                        "{} uses {}, in a circle",
                        self.0[*from].file.display(),
                        to.join("::")
                    ));
                }
            }
        }
        circles
    }
}

/// The names of the files' modules declared here.
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

/// Collects what a file names.
struct Reader {
    /// The module at this point of the file.
    path: ModulePath,
    children: Vec<String>,
    module: Module,
}

impl Reader {
    /// A path from the root; nothing for one into another crate.
    fn absolute(&self, path: &[String]) -> Option<ModulePath> {
        let (first, rest) = path.split_first()?;
        match first.as_str() {
            "crate" => Some(rest.to_vec()),
            "self" => Some([&self.path, rest].concat()),
            "super" => {
                let mut above = self.path.clone();
                above.pop();
                let ups = rest.iter().take_while(|name| *name == "super").count();
                above.truncate(above.len() - ups);
                Some([&above, &rest[ups..]].concat())
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
        // First, since a name may be used above the line that brings it in.
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

    fn visit_macro(&mut self, makes: &'ast Macro) {
        // What a macro takes need not be Rust, but paths in it look as they do elsewhere.
        let text = makes.tokens.to_string().replace(" :: ", "::");
        for word in text.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')) {
            let names: ModulePath = word.split("::").map(ToString::to_string).collect();
            if names.len() > 1 && names.iter().all(|name| !name.is_empty() && !name.contains(':')) {
                self.import(&names);
            }
        }
        visit::visit_macro(self, makes);
    }
}

/// The layers of a crate, the highest first.
struct Layers(Vec<Vec<String>>);

impl Layers {
    /// Those that a text has of a crate.
    fn read(text: &str, name: &str) -> Self {
        let fence = format!("```layers {name}\n");
        let (_, block) = text.split_once(&fence).unwrap_or_else(|| panic!("there are no layers of {name}"));
        let (block, _) = block.split_once("```").unwrap();
        let layer = |line: &str| line.split(',').map(|module| module.trim().to_string()).collect();
        Self(block.lines().map(layer).collect())
    }

    fn of(&self, module: &str) -> Option<usize> {
        self.0.iter().position(|layer| layer.iter().any(|name| name == module))
    }
}

#[track_caller]
fn assert_in_order(name: &str, folder: &str) {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let text = fs::read_to_string(workspace.join("ARCHITECTURE.md")).unwrap();
    let sources = Sources::read(&workspace.join(folder).join("src"));
    let mut wrong = sources.against(&Layers::read(&text, name));
    wrong.extend(sources.circles());
    assert!(wrong.is_empty(), "{name}:\n{}", wrong.into_iter().collect::<Vec<_>>().join("\n"));
}

#[test]
fn imports_of_the_orchestrator_run_down() {
    assert_in_order("testbed", "orchestrator");
}

#[test]
fn imports_of_netem_run_down() {
    assert_in_order("netem", "netem");
}

#[test]
fn imports_of_the_stressor_run_down() {
    assert_in_order("stressor", "stressor");
}

#[test]
fn what_runs_up_or_in_a_circle_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let write = |file: &str, text: &str| {
        let path = dir.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    write("lib.rs", "pub mod high; pub mod low; mod beside; pub use beside::Thing;");
    write("high/mod.rs", "pub mod inner; use crate::low; use inner::Inner; fn f() { low::g() }");
    write("high/inner.rs", "pub mod deep; pub use deep::Deep; pub struct Inner;");
    write("high/inner/deep.rs", "pub struct Deep(super::super::Other);");
    write(
        "low.rs",
        "use crate::{Thing, beside::{self, X}};\n#[cfg(test)]\nmod tests { use crate::beside::f; }\n\
         fn g() { println!(\"{}\", crate::high::f()); }\n#[cfg(test)]\nuse crate::high::Deep;\n",
    );
    write("beside.rs", "#[cfg(test)]\nmod tests;\npub struct X(std::io::Error);\n");
    let sources = Sources::read(dir.path());
    let layers = Layers::read("```layers x\nhigh\nlow, beside, gone\n```\n", "x");
    let found = |found: BTreeSet<String>| found.into_iter().collect::<Vec<_>>();
    assert_eq!(
        found(sources.against(&layers)),
        [
            "gone is in a layer, but not there",
            "low.rs uses Thing by the crate's root, not by its own module",
            "low.rs uses beside against the layers",
            "low.rs uses high against the layers",
        ]
    );
    assert_eq!(
        found(sources.circles()),
        ["high/mod.rs uses low, in a circle", "low.rs uses high, in a circle"]
    );
    write("high/inner/deep.rs", "pub struct Deep(super::super::other::Other);");
    write("high/mod.rs", "pub mod inner; pub mod other;");
    write("high/other.rs", "pub use super::inner::deep::Deep; pub struct Other;");
    assert_eq!(
        found(Sources::read(dir.path()).circles()),
        [
            "high/inner/deep.rs uses high::other, in a circle",
            "high/other.rs uses high::inner::deep, in a circle"
        ]
    );
}
