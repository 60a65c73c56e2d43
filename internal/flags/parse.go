package flags

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/pflag"

	"github.com/ratelimitd/ratelimitd/internal/spelling"
)

// ErrHelp is what Parse returns for --help, and ErrVersion for --version.
var (
	ErrHelp    = pflag.ErrHelp
	ErrVersion = errors.New("--version")
)

// Parse returns what args set, as a source, and the other arguments. The error
// names a flag that is not known or has no value.
func (s *Set) Parse(args []string) (Source, []string, error) {
	line := Source{}
	all := pflag.NewFlagSet("", pflag.ContinueOnError)
	all.Usage = func() {}
	version := all.Bool("version", false, "")
	for i := range s.Flags {
		f := &s.Flags[i]
		declared := all.VarPF(&argument{f, line}, f.Name, f.Short, "")
		if f.isBool() {
			declared.NoOptDefVal = "true"
		}
	}
	err := all.Parse(args)
	switch unknown, bare := (*pflag.NotExistError)(nil), (*pflag.ValueRequiredError)(nil); {
	case errors.As(err, &unknown):
		return nil, nil, s.unknown(unknown)
	case errors.As(err, &bare):
		f := s.Lookup(bare.GetFlag().Name)
		return nil, nil, fmt.Errorf("--%s has no value; write one, as in --%s=%s", f.Name, f.Name, f.example())
	case err != nil:
		return nil, nil, err
	case *version:
		return nil, nil, ErrVersion
	}
	return line, all.Args(), nil
}

// unknown says that no flag has that name, and which may be meant.
func (s *Set) unknown(err *pflag.NotExistError) error {
	if letters := err.GetSpecifiedShortnames(); letters != "" {
		letters, _, _ = strings.Cut(letters, "=") // what follows may be a password
		return fmt.Errorf("unknown flag %s", Quote("-"+letters))
	}
	name := err.GetSpecifiedName()
	names := []string{"help", "version"}
	for _, f := range s.Flags {
		names = append(names, f.Name)
	}
	if meant, ok := spelling.Closest(name, names); ok {
		return fmt.Errorf("unknown flag %s (did you mean --%s?)", Quote("--"+name), meant)
	}
	return fmt.Errorf("unknown flag %s", Quote("--"+name))
}

// An argument adds what the command line sets a flag to to a source. It accepts
// any text: Set.Apply says what is wrong with it.
type argument struct {
	flag *Flag
	line Source
}

// Set implements pflag.Value.
func (a *argument) Set(text string) error {
	if before, ok := a.line[a.flag.Name]; ok && a.flag.IsList() {
		text = before.Text + "\n" + text
	}
	a.line[a.flag.Name] = Setting{Text: text, Name: "--" + a.flag.Name}
	return nil
}

// String implements pflag.Value.
func (a *argument) String() string { return "" }

// Type implements pflag.Value.
func (a *argument) Type() string { return "text" }
