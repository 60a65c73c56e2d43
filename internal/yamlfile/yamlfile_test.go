package yamlfile_test

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/ratelimitd/ratelimitd/internal/yamlfile"
)

// read reads a file as a reader of configuration would.
func read(data string) (got map[string]string, err error) {
	f, root := yamlfile.Parse("x.yaml", []byte(data))
	got = map[string]string{}
	root.Mapping(map[string]func(yamlfile.Node){
		"name": func(n yamlfile.Node) { got["name"] = n.Text() },
		"on":   func(n yamlfile.Node) { got["on"] = fmt.Sprint(n.Bool()) },
		"n":    func(n yamlfile.Node) { got["n"] = fmt.Sprint(n.Uint(1000)) },
		"list": func(n yamlfile.Node) { got["list"] = strings.Join(n.Texts(), " ") },
		"map": func(n yamlfile.Node) {
			n.Pairs(func(key, value yamlfile.Node) { got["map"] += key.Text() + "=" + value.Text() + " " })
		},
		"anchors": func(yamlfile.Node) {},
	})
	return got, f.Err()
}

func TestRead(t *testing.T) {
	for data, want := range map[string]map[string]string{
		"":                              {},
		"# nothing\n":                   {},
		"---\n...\n":                    {},
		"null":                          {},
		"name: a\non: true\nn: 1_000\n": {"name": "a", "on": "true", "n": "1000"},
		"name: 404\non: No":             {"name": "404", "on": "false"}, // as it is written
		"name: 012":                     {"name": "012"},
		"name: ~\nlist: ~\nmap:":        {"name": "", "list": ""},
		"list: [a, \"b\"]":              {"list": "a b"},
		"list:\n- a\n- b\r\n":           {"list": "a b"},
		"list: a":                       {"list": "a"},
		"map: {b: 1, a: 2}":             {"map": "b=1 a=2 "},
		"anchors: &x {a: 1}\nmap: *x":   {"map": "a=1 "},
		"name: &n b\nlist: [*n, *n]":    {"name": "b", "list": "b b"},
		"anchors: &x {a: 1, b: 2}\nmap: {b: 3, <<: *x}":                       {"map": "b=3 a=1 "},
		"anchors: [&x {a: 1}, &y {a: 2, b: 2}]\nmap:\n  <<: [*x, *y]\n  c: 3": {"map": "c=3 a=1 b=2 "},
	} {
		if got, err := read(data); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q: got %q, %v, want %q", data, got, err, want)
		}
	}
}

func TestProblems(t *testing.T) {
	for name, c := range map[string]struct {
		data string
		want string
	}{
		"all at once, in order": {
			"name: {a: 1}\nm: 1\non: maybe\nn: -5\nn: 6\nlist: {}\nmap: [1]\n",
			`x.yaml:1:7: a mapping, where a single value is wanted
     1 | name: {a: 1}
       |       ^
x.yaml:2:1: unknown key "m"; known here: anchors, list, map, n, name, on
     2 | m: 1
       | ^
x.yaml:3:5: "maybe" is neither true nor false
     3 | on: maybe
       |     ^
x.yaml:4:4: "-5" is not a whole number of 0 to 1000
     4 | n: -5
       |    ^
x.yaml:5:1: key "n" is already on line 4
     5 | n: 6
       | ^
x.yaml:6:7: a mapping, where a list is wanted, as in "- item" or [item, item]
     6 | list: {}
       |       ^
x.yaml:7:6: a list, where a mapping is wanted, as in "key: value"
     7 | map: [1]
       |      ^`,
		},
		"not a mapping":     {"- a", "x.yaml:1:1: a list, where a mapping is wanted, as in \"key: value\"\n     1 | - a\n       | ^"},
		"number too large":  {"n: 1001", "x.yaml:1:4: \"1001\" is over 1000\n     1 | n: 1001\n       |    ^"},
		"number far larger": {"n: 99999999999999999999", "x.yaml:1:4: \"99999999999999999999\" is over 1000\n     1 | n: 99999999999999999999\n       |    ^"},
		"a pattern without quotes": {"name: *.example.com",
			"x.yaml:1:7: not YAML: unknown anchor '.example.com' referenced; if it is a pattern that begins with *, put it in quotes\n     1 | name: *.example.com\n       |       ^"},
		"not YAML":           {"a: 1\n b: 2", "x.yaml:2:3: not YAML: mapping values are not allowed in this context\n     2 |  b: 2\n       |   ^"},
		"a tab":              {"map:\n\ta: 1", "x.yaml:2:1: not YAML: found character that cannot start any token\n     2 |  a: 1\n       | ^"},
		"two documents":      {"name: a\n---\nname: b", "x.yaml:2:1: a second document begins here; write one document per file\n     2 | ---\n       | ^"},
		"not UTF-8":          {"name: a\nname: \xff", "x.yaml:2:7: byte 0xff is not valid UTF-8\n     2 | name: \ufffd\n       |       ^"},
		"wide characters":    {"map: {é: 1, é: 2}", "x.yaml:1:13: key \"é\" is already on line 1\n     1 | map: {é: 1, é: 2}\n       |             ^"},
		"a key of no scalar": {"map: {[1]: 2}", "x.yaml:1:7: a list, where a single value is wanted\n     1 | map: {[1]: 2}\n       |       ^"},
		"told once":          {"anchors: &x {a: [1]}\nmap: {<<: [*x, *x]}", "x.yaml:1:17: a list, where a single value is wanted\n     1 | anchors: &x {a: [1]}\n       |                 ^"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := read(c.data)
			var problems yamlfile.Problems
			if !errors.As(err, &problems) || err.Error() != c.want {
				t.Errorf("%q: got\n%v\nwant\n%s", c.data, err, c.want)
			}
		})
	}
}

// TestAliasBomb reads a file whose aliases would make it 10^9 values.
func TestAliasBomb(t *testing.T) {
	data := "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
	for i := 1; i < 9; i++ {
		data += fmt.Sprintf("a%d: &a%[1]d [%s]\n", i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d, ", i-1), 10), ", "))
	}
	f, root := yamlfile.Parse("bomb.yaml", []byte(data))
	var walk func(n yamlfile.Node)
	walk = func(n yamlfile.Node) { n.Items(walk) }
	root.Pairs(func(_, value yamlfile.Node) { walk(value) })
	var problems yamlfile.Problems
	if !errors.As(f.Err(), &problems) || !strings.Contains(f.Err().Error(), "aliases make the file too large") {
		t.Errorf("got %v", f.Err())
	}
}

// TestAliasOfItself reads a list that holds itself.
func TestAliasOfItself(t *testing.T) {
	f, root := yamlfile.Parse("x.yaml", []byte("&x [*x]"))
	var walk func(n yamlfile.Node)
	walk = func(n yamlfile.Node) { n.Items(walk) }
	walk(root)
	if f.Err() == nil {
		t.Error("it was read to its end")
	}
}

// TestDepth nests lists as deep as they may be, and one deeper.
func TestDepth(t *testing.T) {
	var walk func(n yamlfile.Node)
	walk = func(n yamlfile.Node) { n.Items(walk) }
	for _, tt := range []struct {
		depth int
		want  string
	}{
		{1001, ""}, // the innermost list is 1,000 below the root
		{1002, "nested more than 1000 deep"},
		{9000, "nested more than 1000 deep"},
		{1_000_000, "not YAML: exceeded max depth"},
	} {
		f, root := yamlfile.Parse("x.yaml", []byte(strings.Repeat("[", tt.depth)+strings.Repeat("]", tt.depth)))
		walk(root)
		if err := f.Err(); tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%d deep: got %.200v, want %q", tt.depth, err, tt.want)
		}
	}
}

// TestMergeOfMerges nests mappings by merging each into the next, and one into
// itself.
func TestMergeOfMerges(t *testing.T) {
	for n, want := range map[int]string{900: "", 1100: "nested more than 1000 deep"} {
		data := "anchors: [&a0 {b: 1}"
		for i := 1; i <= n; i++ {
			data += fmt.Sprintf(", &a%d {<<: *a%d}", i, i-1)
		}
		got, err := read(data + fmt.Sprintf("]\nmap: *a%d", n))
		if want == "" && (err != nil || got["map"] != "b=1 ") || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%d merges: got %q, %.200v, want %q", n, got["map"], err, want)
		}
	}
	if _, err := read("map: &x {b: 1, <<: *x}"); err == nil {
		t.Error("a mapping that merges itself was read to its end")
	}
}

// TestManyProblems reads a file with more problems than anybody would read.
func TestManyProblems(t *testing.T) {
	_, err := read(strings.Repeat("on: maybe\n", 1000))
	var problems yamlfile.Problems
	if !errors.As(err, &problems) || len(problems) != 101 || problems[100].String() != "x.yaml: and 900 more problems" {
		t.Errorf("got %d problems: %.200v", len(problems), err)
	}
}

// TestZeroNode calls each method of the Node that no file has.
func TestZeroNode(t *testing.T) {
	var n yamlfile.Node
	call(n, 0)
	n.Problem("dropped")
	if n.Given() || !n.IsNull() || n.Bool() || n.Uint(5) != 0 || n.Text()+n.String() != "" || len(n.Texts())+len(n.Map()) > 0 || n.Has("a") || n.Line() != 1 {
		t.Error("the zero Node is something")
	}
}

// call calls each method of n and, as deep as anybody could nest, of what n holds.
func call(n yamlfile.Node, depth int) {
	if depth > 2000 {
		panic("the nesting has no bound")
	}
	n.Given()
	n.Line()
	n.IsNull()
	n.Text()
	n.Texts()
	n.Bool()
	n.Uint(5)
	n.Has("name")
	n.Mapping(map[string]func(yamlfile.Node){"name": func(yamlfile.Node) {}})
	n.Items(func(item yamlfile.Node) { call(item, depth+1) })
	n.Pairs(func(key, value yamlfile.Node) { call(key, depth+1); call(value, depth+1) })
	n.Problem("%d deep", depth)
}

var hostile = []string{
	"", "name: a", "map: {<<: *x}", "a: &a [*a]", "a: &a [*a, *a]", "&a {*a : *a}", "&a {<<: *a}", "&a {<<: [*a, *a]}", "\t", "- ? x", "name: \xff", "\"\\", "name: |\n  x\n y",
	"? [1]\n: {? {a: b} : c}", "&a a: *a", "{<<: {<<: {a: 1}}, <<: 1}", "!!merge <<: 1", "!!null x", "!!int x", "!!bool x", "!!float nan", "!<tag:yaml.org,2002:str> ", "a: !!binary x",
	"- &a\n- *a", "&a", "*a", "--- >\n---", "%YAML 1.2\n---\na", strings.Repeat("[", 1002) + strings.Repeat("]", 1002), strings.Repeat("a:\n ", 50),
}

func FuzzNode(f *testing.F) {
	for _, seed := range hostile {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, data string) {
		for _, read := range []func(yamlfile.Node){
			func(n yamlfile.Node) { call(n, 0) },
			func(n yamlfile.Node) { n.Map() },
			func(n yamlfile.Node) { _ = n.String() },
		} {
			file, root := yamlfile.Parse("x.yaml", []byte(data))
			read(root)
			if err := file.Err(); err != nil {
				_ = err.Error()
			}
		}
	})
}

func FuzzParse(f *testing.F) {
	for _, seed := range hostile {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, data string) {
		_, err := read(data)
		var problems yamlfile.Problems
		if err != nil && !errors.As(err, &problems) {
			t.Fatalf("got a %T", err)
		}
		for i, p := range problems {
			if i == 100 { // it says how many more there are
				break
			}
			if p.Line < 1 || p.Column < 1 || p.Text == "" {
				t.Errorf("%q: a problem without a place or a text: %+v", data, p)
			}
		}
	})
}

// TestUintInOtherBases reads numbers as YAML 1.1 does, and so the library that most
// services read their files with.
func TestUintInOtherBases(t *testing.T) {
	for text, want := range map[string]uint64{"10": 10, "010": 8, "0o10": 8, "0x10": 16, "1_000": 1000, "0": 0, "'7'": 7} {
		f, n := yamlfile.Parse("x.yaml", []byte(text))
		if got := n.Uint(1000); got != want || f.Err() != nil {
			t.Errorf("%s: %d, %v, want %d", text, got, f.Err(), want)
		}
	}
	for _, text := range []string{"08", "1e3", "2.0", "0x", "+1", "1:30"} {
		f, n := yamlfile.Parse("x.yaml", []byte(text))
		if got := n.Uint(1000); f.Err() == nil {
			t.Errorf("%s: %d, want it refused", text, got)
		}
	}
}
