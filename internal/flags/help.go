package flags

import (
	"fmt"
	"io"
	"slices"
	"strings"
)

const (
	helpWidth  = 80 // of a line
	helpIndent = 32 // of the help of a flag
)

// Help prints the flags by group, each with its default, its help and its
// environment variable.
func (s *Set) Help(w io.Writer) {
	fmt.Fprint(w, "\nFlags:\n")
	printHelp(w, "  -h, --help", "Show this help.")
	printHelp(w, "      --version", "Print the version.")
	var groups []string
	for _, f := range s.Flags {
		if !slices.Contains(groups, f.Group) {
			groups = append(groups, f.Group)
		}
	}
	slices.SortStableFunc(groups, func(a, b string) int { return min(len(a), 1) - min(len(b), 1) }) // the ungrouped first
	for _, group := range groups {
		fmt.Fprintln(w)
		if group != "" {
			fmt.Fprintf(w, "%s:\n", group)
		}
		for i := range s.Flags {
			if f := &s.Flags[i]; f.Group == group {
				help := f.Help
				if s.EnvPrefix != "" && !f.NoVariable {
					help = fmt.Sprintf("%s ($%s)", help, s.Variable(f.Name))
				}
				printHelp(w, f.usage(), help)
			}
		}
	}
}

// usage returns how f is written: "  -n, --lines=10".
func (f *Flag) usage() string {
	short := "      "
	if f.Short != "" {
		short = "  -" + f.Short + ", "
	}
	if f.isBool() {
		return short + "--" + f.Name
	}
	more := ""
	if f.IsList() {
		more = " ..."
	}
	return short + "--" + f.Name + "=" + f.example() + more
}

// printHelp prints text in a column beside usage, or below it if there is no room.
func printHelp(w io.Writer, usage, text string) {
	if len(usage) > helpIndent-2 {
		fmt.Fprintln(w, usage)
		usage = ""
	}
	for _, line := range Wrap(text, helpWidth-helpIndent) {
		fmt.Fprintf(w, "%-*s%s\n", helpIndent, usage, line)
		usage = ""
	}
}

// Wrap breaks text at its spaces into lines of at most width characters, as far
// as its words are no longer than that.
func Wrap(text string, width int) []string {
	var lines []string
	line := ""
	for word := range strings.FieldsSeq(text) {
		if line != "" && len(line)+1+len(word) > width {
			lines, line = append(lines, line), ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return append(lines, line)
}
