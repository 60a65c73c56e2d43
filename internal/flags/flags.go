// Package flags declares the flags of a command, each once: its name, its
// default, its help and where its value goes. It gives each flag the value of
// the first source that sets it, such as the command line or the environment,
// and its messages name that source.
package flags

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// A Set is the flags of one command. It is for one goroutine.
type Set struct {
	Flags []Flag
	// EnvPrefix is what the names of environment variables begin with, such as
	// RATELIMITD. "": there are none.
	EnvPrefix string

	settings Source // of the flags that Apply found set
}

// A Source is one place that sets flags, by their names.
type Source map[string]Setting

// A Setting is what a source sets a flag to.
type Setting struct {
	Text string // as on the command line; a list has spaces or ends of lines between its items
	// Name is what messages call it: --store, RATELIMITD_STORE, REDIS_URL.
	Name string
	// Note, if it is not nil, keeps a problem with the setting and shows it with
	// its place in a file. Without it, the problem is an error of its own.
	Note func(problem string)
}

// problem notes what is wrong with a setting, or returns it as an error.
func (s Setting) problem(text string) error {
	if s.Note == nil {
		return fmt.Errorf("%s%s", s.Name, text)
	}
	s.Note(s.Name + text)
	return nil
}

// Lookup returns the flag of that name, or nil.
func (s *Set) Lookup(name string) *Flag {
	if i := slices.IndexFunc(s.Flags, func(f Flag) bool { return f.Name == name }); i >= 0 {
		return &s.Flags[i]
	}
	return nil
}

// Apply gives each flag the value of the first of sources that sets it. The
// errors are all values that a flag cannot have.
func (s *Set) Apply(sources ...Source) []error {
	var wrong []error
	s.settings = Source{}
	for i := range s.Flags {
		f := &s.Flags[i]
		for _, source := range sources {
			setting, ok := source[f.Name]
			if !ok {
				continue
			}
			s.settings[f.Name] = setting
			if err := f.Value.Set(setting.Text); err != nil {
				if err := setting.problem(f.valueProblem(setting.Text, err)); err != nil {
					wrong = append(wrong, err)
				}
			}
			break
		}
		if f.Required {
			if err := s.Need(f.Name); err != nil {
				wrong = append(wrong, err)
			}
		}
	}
	return wrong
}

// Need returns an error unless all flags of these names are set.
func (s *Set) Need(names ...string) error {
	var wrong []error
	for _, name := range names {
		if _, set := s.settings[name]; !set {
			wrong = append(wrong, fmt.Errorf("--%s is missing; write --%s=%s", name, name, s.Lookup(name).example()))
		}
	}
	return errors.Join(wrong...)
}

// OneOf returns an error unless exactly one of two flags is set.
func (s *Set) OneOf(a, b string) error {
	first, hasFirst := s.settings[a]
	second, hasSecond := s.settings[b]
	switch {
	case hasFirst && hasSecond:
		return fmt.Errorf("%s and %s cannot be used together; leave one of them out", first.Name, second.Name)
	case !hasFirst && !hasSecond:
		return fmt.Errorf("--%s or --%s is missing; write one of them", a, b)
	}
	return nil
}

// Without returns an error if flag is set and one of others is too.
func (s *Set) Without(flag string, others ...string) error {
	setting, ok := s.settings[flag]
	var wrong []error
	for _, other := range others {
		if too, both := s.settings[other]; ok && both {
			wrong = append(wrong, fmt.Errorf("%s and %s cannot be used together; leave one of them out", setting.Name, too.Name))
		}
	}
	return errors.Join(wrong...)
}

// Check notes with each setting of source why its flag cannot have the value.
// It changes the values of s. Unlike Apply it looks at settings that others
// override.
func (s *Set) Check(source Source) {
	for i := range s.Flags {
		f := &s.Flags[i]
		if setting, ok := source[f.Name]; ok {
			if err := f.Value.Set(setting.Text); err != nil {
				_ = setting.problem(f.valueProblem(setting.Text, err))
			}
		}
	}
}

// Setting returns what set a flag. It is false for a flag that has its default.
func (s *Set) Setting(flag string) (Setting, bool) {
	setting, ok := s.settings[flag]
	return setting, ok
}

// Problem says what is wrong with the value of a flag, by the name that its
// source has for it. It returns nil if the source keeps the problem. The text
// follows the name as it is: begin it with ": " or with a space and the value.
func (s *Set) Problem(flag, text string) error {
	setting, ok := s.settings[flag]
	if !ok {
		setting.Name = "--" + flag
	}
	return setting.problem(text)
}

// Shown returns the value of each flag as JSON has it, by the flag's name. It has no
// passwords.
func (s *Set) Shown() map[string]any {
	shown := make(map[string]any, len(s.Flags))
	for _, f := range s.Flags {
		shown[f.Name] = f.json()
	}
	return shown
}

// Environment returns the source that lookup, which is os.LookupEnv, knows. A
// variable that is set to nothing counts as set.
func (s *Set) Environment(lookup func(string) (string, bool)) Source {
	source := Source{}
	for _, f := range s.Flags {
		if text, ok := lookup(s.Variable(f.Name)); ok && s.EnvPrefix != "" && !f.NoVariable {
			source[f.Name] = Setting{Text: text, Name: s.Variable(f.Name)}
		}
	}
	return source
}

// Variable returns the environment variable of a flag.
func (s *Set) Variable(flag string) string {
	return s.EnvPrefix + "_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}
