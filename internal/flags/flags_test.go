package flags

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
)

// A sample has a flag of each kind.
type sample struct {
	text, one, path, addr string
	yes                   bool
	n                     int
	big                   uint64
	wait                  time.Duration
	list                  []string
	secret                string
}

func newSample() (*sample, *Set) {
	v := &sample{text: "a", one: "x", addr: "127.0.0.1:80", n: 7, wait: time.Second, list: []string{"l"}}
	return v, &Set{EnvPrefix: "TEST", Flags: []Flag{
		{Name: "text", Value: Text(&v.text), Help: "Some text."},
		{Name: "one", Value: OneOf(&v.one, "x", "y", "z"), Help: "One of three."},
		{Name: "path", Value: Path(&v.path), Hint: "FILE", Help: "A file.", Group: "Other"},
		{Name: "addr", Value: Address(&v.addr, "80"), Help: "An address."},
		{Name: "yes", Value: Bool(&v.yes), Help: "Yes or no."},
		{Name: "number", Short: "n", Value: Number(&v.n), Help: "A number."},
		{Name: "big", Value: Number(&v.big), Help: "A number from 0."},
		{Name: "wait", Value: Duration(&v.wait), Help: "A duration."},
		{Name: "list", Value: List(&v.list), Help: strings.Repeat("Many words. ", 20)},
		{Name: "secret", Value: Text(&v.secret), Secret: true, Hint: "PASSWORD", Help: "A password."},
	}}
}

func TestParse(t *testing.T) {
	v, set := newSample()
	line, rest, err := set.Parse([]string{"--text=b", "first", "--one", "z", "--yes", "-n", "3", "--big=1_000", "--wait=2m", "--list=a", "--list", "b c", "--secret=s", "--", "--last"})
	if err != nil || !slices.Equal(rest, []string{"first", "--last"}) {
		t.Fatalf("%q, %v", rest, err)
	}
	if wrong := set.Apply(line); wrong != nil {
		t.Fatal(wrong)
	}
	if v.text != "b" || v.one != "z" || !v.yes || v.n != 3 || v.big != 1000 || v.wait != 2*time.Minute || !slices.Equal(v.list, []string{"a", "b", "c"}) || v.secret != "s" {
		t.Errorf("%+v", v)
	}
	if _, _, err := set.Parse([]string{"--help"}); !errors.Is(err, ErrHelp) {
		t.Errorf("--help: %v", err)
	}
	if _, _, err := set.Parse([]string{"--version"}); !errors.Is(err, ErrVersion) {
		t.Errorf("--version: %v", err)
	}
	for args, want := range map[string]string{
		"--tex=b":   `unknown flag "--tex" (did you mean --text?)`,
		"--lsit":    `unknown flag "--lsit" (did you mean --list?)`,
		"--nothing": `unknown flag "--nothing"`,
		"-z":        `unknown flag "-z"`,
		"--wait":    "--wait has no value; write one, as in --wait=1s",
		"--secret":  "--secret has no value; write one, as in --secret=PASSWORD",
		"--=x":      "bad flag syntax: --=x",
	} {
		if _, set := newSample(); true {
			if _, _, err := set.Parse([]string{args}); err == nil || err.Error() != want {
				t.Errorf("%s: %v, want %s", args, err, want)
			}
		}
	}
}

func TestValues(t *testing.T) {
	t.Setenv("HOME", "/home/me")
	for _, tt := range []struct{ flag, text, value, wrong string }{
		{"one", "y", "y", ""},
		{"one", "Y", "", `--one "Y": use x, y or z`},
		{"path", "~/a", "/home/me/a", ""},
		{"path", "a/~/b", "a/~/b", ""},
		{"yes", "On", "true", ""},
		{"yes", "0", "false", ""},
		{"yes", "", "", `--yes "": write true or false`},
		{"number", "-1", "-1", ""},
		{"number", "1.5", "", `--number "1.5": write a whole number, such as 7`},
		{"number", "9223372036854775808", "", "the number is too large"},
		{"big", "18446744073709551615", "18446744073709551615", ""},
		{"big", "-1", "", "write a whole number"},
		{"wait", "90m", "1h30m", ""},
		{"wait", "1h", "1h", ""},
		{"wait", "100ms", "100ms", ""},
		{"wait", "10", "", `--wait "10": write a number and its unit, such as 50ms, 2s or 1m`},
		{"list", " a  b ", "a b", ""},
		{"list", "", "", ""},
		{"text", strings.Repeat("x", 1000), strings.Repeat("x", 1000), ""},
		{"one", strings.Repeat("x", 1000), "", `--one "` + strings.Repeat("x", 64) + `"...: use x`},
		{"secret", "s", "s", ""},

		{"addr", "localhost", "localhost:80", ""},
		{"addr", "localhost:", "localhost:80", ""},
		{"addr", ":81", ":81", ""},
		{"addr", "10.0.0.1:81", "10.0.0.1:81", ""},
		{"addr", "::1", "[::1]:80", ""},
		{"addr", "[::1]", "[::1]:80", ""},
		{"addr", "[::1]:81", "[::1]:81", ""},
		{"addr", "unix:/run/s", "unix:/run/s", ""},
		{"addr", "dns:///a:81", "dns:///a:81", ""},
		{"addr", "http://a:81", "", `--addr "http://a:81": write host or host:port, such as 127.0.0.1:80`},
		{"addr", "a:b:81", "", "write host or host:port"},
		{"addr", "a:http", "", "write host or host:port"},
		{"addr", "a:0", "", "write host or host:port"},
		{"addr", "", "", "write host or host:port"},
	} {
		_, set := newSample()
		wrong := set.Apply(Source{tt.flag: {Text: tt.text, Name: "--" + tt.flag}})
		if tt.wrong != "" {
			if len(wrong) != 1 || !strings.Contains(wrong[0].Error(), tt.wrong) {
				t.Errorf("--%s=%s: %v, want %s", tt.flag, tt.text, wrong, tt.wrong)
			}
			continue
		}
		if got := set.Lookup(tt.flag).Value.String(); wrong != nil || got != tt.value {
			t.Errorf("--%s=%s is %q, %v, want %q", tt.flag, tt.text, got, wrong, tt.value)
		}
	}
}

// TestLines adds items that hold spaces.
func TestLines(t *testing.T) {
	var lines []string
	share := 0.5
	set := &Set{Flags: []Flag{{Name: "limit", Value: Lines(&lines)}, {Name: "share", Value: Float(&share)}}}
	line, _, err := set.Parse([]string{"--limit=2 per 5 s", "--share=1e-3", "--limit", "1/s"})
	if wrong := set.Apply(line); err != nil || wrong != nil || !slices.Equal(lines, []string{"2 per 5 s", "1/s"}) || share != 0.001 {
		t.Errorf("%q, %v, %v, %v", lines, share, err, wrong)
	}
	if wrong := set.Apply(Source{"share": {Text: "half", Name: "--share"}}); len(wrong) != 1 || wrong[0].Error() != `--share "half": write a number, such as 0.5` {
		t.Error(wrong)
	}
}

func TestSources(t *testing.T) {
	v, set := newSample()
	env := map[string]string{"TEST_TEXT": "env", "TEST_NUMBER": "x", "TEST_ONE": ""}
	fromEnv := set.Environment(func(name string) (string, bool) { text, ok := env[name]; return text, ok })
	noted := ""
	file := Source{
		"text": {Text: "file", Name: "text"},
		"wait": {Text: "soon", Name: "wait", Note: func(problem string) { noted += problem }},
		"yes":  {Text: "true", Name: "yes"},
	}
	wrong := set.Apply(fromEnv, file)
	if v.text != "env" || !v.yes || len(wrong) != 2 || wrong[0].Error() != `TEST_ONE "": use x, y or z` || wrong[1].Error() != `TEST_NUMBER "x": write a whole number, such as 7` {
		t.Errorf("%+v, %v", v, wrong)
	}
	if noted != `wait "soon": write a number and its unit, such as 50ms, 2s or 1m` {
		t.Errorf("noted: %s", noted)
	}
	if err := set.Problem("path", ": is missing"); err.Error() != "--path: is missing" { // a default
		t.Error(err)
	}
	if err := set.OneOf("text", "number"); err == nil || err.Error() != "TEST_TEXT and TEST_NUMBER cannot be used together; leave one of them out" {
		t.Error(err)
	}
	if err := set.OneOf("path", "list"); err == nil || err.Error() != "--path or --list is missing; write one of them" {
		t.Error(err)
	}
	if err := errors.Join(set.OneOf("path", "text"), set.Without("path", "text"), set.Without("text", "path", "list")); err != nil {
		t.Error(err)
	}
	if err := set.Without("text", "yes"); err == nil || err.Error() != "TEST_TEXT and yes cannot be used together; leave one of them out" {
		t.Error(err)
	}
}

func TestRequired(t *testing.T) {
	set := &Set{Flags: []Flag{{Name: "a", Value: Text(new(string)), Hint: "NAME", Required: true}}}
	if wrong := set.Apply(); len(wrong) != 1 || wrong[0].Error() != "--a is missing; write --a=NAME" {
		t.Error(wrong)
	}
}

func TestHelp(t *testing.T) {
	v, set := newSample()
	v.secret = "hunter2"
	var out strings.Builder
	set.Help(&out)
	for _, want := range []string{
		"  -h, --help ", "      --text=a ", "  -n, --number=7 ", "      --yes  ", "      --list=l ...  ", "      --path=FILE ", "\nOther:\n", "($TEST_TEXT)", "--secret=PASSWORD",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("it does not have %q:\n%s", want, out.String())
		}
	}
	for line := range strings.Lines(out.String()) {
		if len(line) > helpWidth+1 {
			t.Errorf("a line of %d characters: %s", len(line), line)
		}
	}
	if strings.Contains(out.String(), "hunter2") || strings.Index(out.String(), "--path") < strings.Index(out.String(), "--secret") {
		t.Errorf("it has a password, or the groups before the rest:\n%s", out.String())
	}
}
