package auth

import (
	"cmp"
	"encoding/hex"
	"errors"
	"slices"
	"strconv"
	"strings"

	"github.com/ratelimitd/ratelimitd/internal/quote"
	"github.com/ratelimitd/ratelimitd/internal/spelling"
	"github.com/ratelimitd/ratelimitd/internal/yamlfile"
)

// maxNameBytes is how long the name of a client may be.
const maxNameBytes = 128

// Key is the key at the root of a file of clients.
const Key = "clients"

// Parse reads a file of clients:
//
//	clients:
//	  - name: checkout
//	    tokens: ["sha256:..."]                       # of "ratelimitd token new"
//	    certificates: ["spiffe://example.org/shop/*", checkout.example.org]
//	    namespaces: [checkout, "checkout-*"]
//	    policies: ["*"]                              # the default
//	    operations: [decide]                         # the default
//	    share: 1                                     # the default
//
// The error is all that is wrong with the file. It quotes no line, as a line may hold
// a token.
func Parse(name string, data []byte) (*Directory, error) {
	parsed, root := yamlfile.Parse(name, data)
	r := reader{
		directory: &Directory{tokens: map[uint64][]token{}, sans: map[string]*Caller{}},
		names:     map[string]int{}, tokens: map[string]int{},
	}
	switch {
	case root.IsNull():
		root.Problem(`nothing is in this file; to know no clients, write "clients: []"`)
	case !root.Has(Key):
		root.Problem(`there is no key "clients"; to know no clients, write "clients: []"`)
	}
	root.Mapping(map[string]func(yamlfile.Node){Key: func(n yamlfile.Node) { n.Items(r.client) }})
	slices.SortStableFunc(r.directory.prefixes, func(a, b prefix) int { return cmp.Compare(len(b.text), len(a.text)) })
	err := parsed.Err()
	if problems, ok := errors.AsType[yamlfile.Problems](err); ok {
		for i := range problems {
			problems[i].Source = ""
		}
		return nil, problems
	}
	return r.directory, err
}

// A reader reads the clients of one file.
type reader struct {
	directory *Directory
	names     map[string]int // the lines that have them
	tokens    map[string]int // by the hash, likewise
}

func (r *reader) client(n yamlfile.Node) {
	c := &Caller{policies: all, operations: setOf(Decide), share: 1}
	credentials := 0
	hasNamespaces := false
	n.Mapping(map[string]func(yamlfile.Node){
		"name":   func(v yamlfile.Node) { c.name = r.name(v) },
		"tokens": func(v yamlfile.Node) { v.Items(func(item yamlfile.Node) { credentials++; r.token(item, c) }) },
		"certificates": func(v yamlfile.Node) {
			v.Items(func(item yamlfile.Node) {
				credentials++
				if err := r.directory.addSAN(item.Text(), c); err != nil {
					item.Problem("%v", err)
				}
			})
		},
		"namespaces": func(v yamlfile.Node) {
			hasNamespaces = true
			c.namespaces = readNames(v)
		},
		"policies":   func(v yamlfile.Node) { c.policies = readNames(v) },
		"operations": func(v yamlfile.Node) { c.operations = readOperations(v) },
		"share":      func(v yamlfile.Node) { c.share = readShare(v) },
	})
	switch {
	case c.name == "":
		n.Problem("this client has no name; give it one, as in name: checkout")
	case credentials == 0:
		n.Problem("client %s has neither tokens nor certificates, so nobody can be it; add a line of \"ratelimitd token new\"", quote.Cut(c.name))
	case !hasNamespaces:
		n.Problem(`client %s has no namespaces; list them, or write namespaces: ["*"]`, quote.Cut(c.name))
	case (c.operations.has(Inspect) || c.operations.has(Admin)) && c.Check(c.wholeDaemon(), "", "") != nil:
		n.Problem(`client %s: operation %s is about the whole daemon; give it namespaces: ["*"] and no policies, or leave it out`, quote.Cut(c.name), c.wholeDaemon())
	}
	r.directory.clients++
}

// wholeDaemon returns an operation of c that is about no one namespace.
func (c *Caller) wholeDaemon() Operation {
	if c.operations.has(Admin) {
		return Admin
	}
	return Inspect
}

func (r *reader) name(n yamlfile.Node) string {
	text := n.Text()
	if text == "" || len(text) > maxNameBytes {
		n.Problem("name %s has %d bytes; give it 1 to %d, as in checkout", quote.Cut(text), len(text), maxNameBytes)
	}
	if line, known := r.names[text]; known {
		n.Problem("client %s is already on line %d", quote.Cut(text), line)
	}
	r.names[text] = n.Line()
	return text
}

// token reads the hash of a token. Messages do not quote it: somebody may have
// written the token itself.
func (r *reader) token(n yamlfile.Node, c *Caller) {
	text, hasPrefix := strings.CutPrefix(n.Text(), hashPrefix)
	hash, err := hex.DecodeString(text)
	t := token{caller: c}
	if !hasPrefix || err != nil || len(hash) != len(t.hash) {
		n.Problem("this is not %s and 64 hex digits, but %d characters; write a line that \"ratelimitd token new\" prints, and never the token itself", hashPrefix, len(n.Text()))
		return
	}
	copy(t.hash[:], hash)
	if line, known := r.tokens[string(hash)]; known {
		n.Problem("this token is already on line %d; a token belongs to one client", line)
		return
	}
	r.tokens[string(hash)] = n.Line()
	at := start(&t.hash)
	r.directory.tokens[at] = append(r.directory.tokens[at], t)
}

func readNames(n yamlfile.Node) (patterns names) {
	n.Items(func(item yamlfile.Node) {
		if err := patterns.add(item.Text()); err != nil {
			item.Problem("%v", err)
		}
	})
	return patterns
}

// maxShare is how many times as much one client can have as another.
const maxShare = 100

func readShare(n yamlfile.Node) int {
	share, err := strconv.Atoi(n.Text())
	if err != nil || share < 1 || share > maxShare {
		n.Problem("share %s is not a whole number from 1 to %d; write one such as 2, for twice as much as other clients", quote.Cut(n.Text()), maxShare)
	}
	return share
}

func readOperations(n yamlfile.Node) (s set) {
	n.Items(func(item yamlfile.Node) {
		text := item.Text()
		i := slices.Index(Operations, text)
		if i < 0 {
			item.Problem("unknown operation %s; %s", quote.Cut(text), spelling.Hint(text, Operations))
			return
		}
		s |= setOf(Operation(i)) //nolint:gosec // one of a few
	})
	return s
}
