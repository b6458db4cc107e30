//! What is measured: a command that runs a function, what would be uploaded of it, and what is expected of it.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, bail, ensure};

/// The names of the candidates in the tree, in the order in which they are measured.
pub const NAMES: [&str; 7] =
    ["floor", "floor-static", "receive", "hand-signed", "tutorial", "python-powertools", "node"];

/// What a function is expected to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contract {
    /// Answer 200 to anything, and store nothing.
    Nothing,
    /// The receiver's: stored, duplicate, or refused with a 401; one item an event.
    Receiver,
    /// The same, with an idempotency record of Powertools' beside each item, in a table of their own.
    ReceiverWithIdempotencyTable,
}

/// A function that can be run.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// What it is called in the report.
    pub name: String,
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Where it runs; Lambda's task root.
    pub folder: PathBuf,
    /// The file or folder that would be uploaded.
    pub artifact: PathBuf,
    /// What is expected of it.
    pub contract: Contract,
    /// Whether it can take its keys from a ring in Secrets Manager.
    pub takes_key_ring: bool,
}

impl Candidate {
    /// One of [`NAMES`], built under the folder `target`; of `receive` the binary of this path.
    pub fn named(name: &str, target: &Path, receive: &Path) -> anyhow::Result<Self> {
        let built = target.join("bench");
        let candidate = match name {
            "floor" => Self { contract: Contract::Nothing, ..Self::binary(name, &built.join("rust/release/floor")) },
            "floor-static" => {
                Self { contract: Contract::Nothing, ..Self::binary(name, &built.join("floor-static/bootstrap")) }
            }
            "receive" => Self::binary(name, receive),
            "hand-signed" => Self { takes_key_ring: false, ..Self::binary(name, &built.join("hand-signed/bootstrap")) },
            "tutorial" => Self { takes_key_ring: false, ..Self::binary(name, &built.join("rust/tutorial/tutorial")) },
            "python-powertools" => Self {
                contract: Contract::ReceiverWithIdempotencyTable,
                ..Self::interpreted(
                    name,
                    &["python3", "-c", "import sys; print(sys.executable)"],
                    &["-m", "awslambdaric", "app.handler"],
                    &built.join(name),
                )?
            },
            "node" => {
                let client = absolute(&built.join("node-modules/node_modules/aws-lambda-ric/bin/index.mjs"))?;
                let client = client.display().to_string();
                Self {
                    takes_key_ring: false,
                    ..Self::interpreted(
                        name,
                        &["node", "--print", "process.execPath"],
                        &[&client, "index.handler"],
                        &built.join(name),
                    )?
                }
            }
            _ => bail!("no candidate is called `{name}`; there are {}, and --command for others", NAMES.join(", ")),
        };
        let artifact = candidate.artifact.display();
        ensure!(candidate.artifact.exists(), "{name} is not built ({artifact} is not there): bench/prepare {name}");
        candidate.absolute()
    }

    /// Any other one, given as `<name>=<command>`; the words of the command are separated by spaces.
    pub fn command(text: &str) -> anyhow::Result<Self> {
        let usage = || format!("--command {text}: expected <name>=<command>, e.g. arm=/path/to/bootstrap");
        let (name, command) = text.split_once('=').with_context(usage)?;
        let mut words = command.split_whitespace();
        let program = PathBuf::from(words.next().with_context(usage)?);
        ensure!(program.exists(), "--command {text}: {} is not there", program.display());
        let arguments = words.map(str::to_owned).collect();
        Self { arguments, ..Self::binary(name, &program) }.absolute()
    }

    fn binary(name: &str, program: &Path) -> Self {
        Self {
            name: name.to_owned(),
            program: program.to_owned(),
            arguments: Vec::new(),
            folder: program.parent().map(Path::to_owned).unwrap_or_default(),
            artifact: program.to_owned(),
            contract: Contract::Receiver,
            takes_key_ring: true,
        }
    }

    /// `ask` prints the interpreter's own path: what is on the `PATH` may be a script that looks for it.
    fn interpreted(name: &str, ask: &[&str], arguments: &[&str], folder: &Path) -> anyhow::Result<Self> {
        let [program, question @ ..] = ask else { bail!("nothing to ask for the interpreter of {name}") };
        let asked = Command::new(program).args(question).output();
        let answer = asked.with_context(|| format!("{name} needs {program}, which cannot be started"))?;
        let program = PathBuf::from(String::from_utf8_lossy(&answer.stdout).trim());
        ensure!(program.is_absolute(), "{name} needs {}, which did not tell its own path", ask.join(" "));
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        Ok(Self {
            program,
            arguments,
            folder: folder.to_owned(),
            artifact: folder.to_owned(),
            ..Self::binary(name, folder)
        })
    }

    /// The process runs in its own folder, so relative paths would lead elsewhere.
    fn absolute(self) -> anyhow::Result<Self> {
        Ok(Self {
            program: absolute(&self.program)?,
            folder: absolute(&self.folder)?,
            artifact: absolute(&self.artifact)?,
            ..self
        })
    }
}

fn absolute(path: &Path) -> anyhow::Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("{} is no path", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_has_a_name_a_program_and_arguments() {
        let this = std::env::current_exe().unwrap();
        let candidate = Candidate::command(&format!("mine={} --flag 1", this.display())).unwrap();
        assert_eq!((candidate.name.as_str(), &candidate.program, &candidate.artifact), ("mine", &this, &this));
        assert_eq!(candidate.arguments, ["--flag", "1"]);
        assert_eq!(candidate.contract, Contract::Receiver);
    }

    #[test]
    fn what_cannot_be_run_says_what_to_do() {
        let nowhere = Path::new("/no/such/folder");
        let message = |name| Candidate::named(name, nowhere, &nowhere.join("receive")).unwrap_err().to_string();
        assert!(message("floor").ends_with(": bench/prepare floor"), "{}", message("floor"));
        assert!(message("receive").ends_with(": bench/prepare receive"));
        assert!(message("rust").contains("there are floor, floor-static, receive,"));
        assert!(Candidate::command("no-equals-sign").unwrap_err().to_string().contains("expected <name>=<command>"));
        assert!(Candidate::command("a=/no/such/file").unwrap_err().to_string().ends_with("/no/such/file is not there"));
    }
}
