//! Manual pages and completions, made of the command line itself, so that they are never stale.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use clap::{Command, CommandFactory as _};
use clap_complete::Shell;
use clap_mangen::Man;

use super::Cli;
use super::failure::Failure;

/// What the manual says besides the command line.
const SECTIONS: &str = r".SH FILES
.TP
\fI/etc/weightvane/weightvane.yaml\fR
Configuration of the service \fBweightvane.service\fR.
.TP
\fI/etc/weightvane/USER.yaml\fR
Configuration of \fBweightvane@USER.service\fR, which runs as the user who trains.
.TP
\fI/var/lib/weightvane\fR, \fI/var/lib/weightvane\-USER\fR
Their state: the history, and where the next searches start.
.TP
\fI/usr/share/doc/weightvane/examples/weightvane.yaml\fR
Every key of the configuration with its default and what it means.
.TP
\fI/usr/share/weightvane\fR
Dashboards for Grafana and rules for Prometheus.
.SH SIGNALS
\fBSIGHUP\fR reads the configuration again. \fBSIGTERM\fR and \fBSIGINT\fR end the daemon within 5 seconds.
";

/// Writes `man/*.1`, `bash/weightvane`, `zsh/_weightvane` and `fish/weightvane.fish` below a directory.
pub(super) fn run(dir: &Path) -> Result<(), Failure> {
    let written = write(dir);
    written.map_err(|error| Failure::system(&dir.display().to_string(), &error))
}

fn write(dir: &Path) -> std::io::Result<()> {
    let mut command = shown();
    for (shell, name, file) in [
        (Shell::Bash, "bash", "weightvane"),
        (Shell::Zsh, "zsh", "_weightvane"),
        (Shell::Fish, "fish", "weightvane.fish"),
    ] {
        fs::create_dir_all(dir.join(name))?;
        let mut out = fs::File::create(dir.join(name).join(file))?;
        clap_complete::generate(shell, &mut command, "weightvane", &mut out);
        out.flush()?;
    }
    let pages = dir.join("man");
    fs::create_dir_all(&pages)?;
    let mut command = shown().disable_help_subcommand(true);
    command.build();
    let names = command.get_subcommands().map(|sub| format!("weightvane-{}", sub.get_name()));
    let names: Vec<String> = names.collect();
    for sub in command.get_subcommands() {
        page(sub.clone(), &pages, "", &["weightvane".to_owned()])?;
    }
    page(command, &pages, SECTIONS, &names)
}

/// The command line without what is only for packagers.
fn shown() -> Command {
    let whole = Cli::command();
    let shown = Command::new("weightvane")
        .version(env!("CARGO_PKG_VERSION"))
        .subcommands(whole.get_subcommands().filter(|sub| !sub.is_hide_set()).cloned());
    let shown = whole.get_about().cloned().into_iter().fold(shown, Command::about);
    whole.get_long_about().cloned().into_iter().fold(shown, Command::long_about)
}

fn page(command: Command, dir: &Path, more: &str, see: &[String]) -> std::io::Result<()> {
    let has_more = command.has_subcommands();
    let man = Man::new(command).manual("weightvane");
    let mut out = fs::File::create(dir.join(man.get_filename()))?;
    man.render_title(&mut out)?;
    man.render_name_section(&mut out)?;
    man.render_synopsis_section(&mut out)?;
    man.render_description_section(&mut out)?;
    man.render_options_section(&mut out)?;
    if has_more {
        man.render_subcommands_section(&mut out)?;
    }
    write!(out, "{more}.SH SEE ALSO\n{}\n", bold(see))?;
    out.flush()
}

fn bold(names: &[String]) -> String {
    let name = |name: &String| format!("\\fB{}\\fR(1)", name.replace('-', "\\-"));
    names.iter().map(name).collect::<Vec<_>>().join(", ")
}
