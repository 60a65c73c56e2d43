package flags

import (
	"fmt"
	"strings"
)

// A Flag is one setting of a command.
type Flag struct {
	Name   string // without --
	Short  string // one letter, without -; or ""
	Help   string
	Hint   string // what stands for the value in the help, such as FILE; "": its default
	Group  string // the heading in the help; "": that of the ungrouped flags
	Secret bool   // never printed
	// NoVariable says that no environment variable sets it.
	NoVariable bool
	// Required says that Apply refuses to go without it.
	Required bool
	Value    Value // holds the default until Set.Apply
}

// valueProblem says that f cannot have a value.
func (f *Flag) valueProblem(text string, err error) string {
	if f.Secret {
		return ": " + err.Error()
	}
	return fmt.Sprintf(" %s: %v", Quote(text), err)
}

// shown returns the value of f as text, without passwords.
func (f *Flag) shown() string {
	text := f.Value.String()
	if f.Secret {
		if text == "" {
			return ""
		}
		return Hidden
	}
	return withoutPasswords(text)
}

// json returns the value of f as JSON has it, without passwords.
func (f *Flag) json() any {
	switch v := f.Value.JSON().(type) {
	case string:
		return f.shown()
	case []string:
		for i := range v {
			v[i] = withoutPasswords(v[i])
		}
		return v
	default:
		return v
	}
}

// withoutPasswords returns text without the passwords in its words.
func withoutPasswords(text string) string {
	words := strings.Split(text, " ")
	for i := range words {
		words[i] = WithoutPassword(words[i])
	}
	return strings.Join(words, " ")
}

// IsList reports whether f holds several values.
func (f *Flag) IsList() bool {
	switch f.Value.(type) {
	case listValue, linesValue:
		return true
	default:
		return false
	}
}

// Separator is what is between the values of a list.
func (f *Flag) Separator() string {
	if _, ok := f.Value.(linesValue); ok {
		return "\n"
	}
	return " "
}

// isBool reports whether f needs no value on the command line.
func (f *Flag) isBool() bool { _, ok := f.Value.(boolValue); return ok }

// example returns what stands for the value of f in the help.
func (f *Flag) example() string {
	if f.Hint != "" {
		return f.Hint
	}
	return f.shown()
}
