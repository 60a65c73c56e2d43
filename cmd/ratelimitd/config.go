package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/alecthomas/kong"

	"github.com/ratelimitd/ratelimitd/internal/policy"
	"github.com/ratelimitd/ratelimitd/internal/server"
	"github.com/ratelimitd/ratelimitd/internal/yamlfile"
)

// A configFile is what the file of --config holds: namespaces, and flags of
// serve under their names with _ for -.
type configFile struct {
	file       *yamlfile.File
	data       []byte
	namespaces yamlfile.Node
	flags      map[string]flagValue // by the flag's name
}

// A flagValue is the value of a flag in a file.
type flagValue struct {
	node yamlfile.Node
	text string // as it would be on the command line
}

// readConfigFile reads a file whose flags may be those given. Whatever is wrong
// with its contents is noted in it.
func readConfigFile(name string, flags []*kong.Flag) (*configFile, error) {
	data, err := os.ReadFile(name) //nolint:gosec // the operator names it
	if err != nil {
		return nil, fmt.Errorf("--config: %w", err)
	}
	file, root := yamlfile.Parse(name, data)
	f := &configFile{file: file, data: data, flags: map[string]flagValue{}}
	keys := map[string]func(yamlfile.Node){"namespaces": func(n yamlfile.Node) { f.namespaces = n }}
	for _, flag := range flags {
		if flag.Name == "config" || flag.Name == "help" {
			continue
		}
		keys[keyOf(flag.Name)] = func(n yamlfile.Node) {
			v := flagValue{node: n}
			if flag.IsSlice() {
				v.text = strings.Join(n.Texts(), string(flag.Tag.Sep))
			} else {
				v.text = n.Text()
			}
			if err := accepts(flag, v.text); err != nil {
				n.Problem("%s %.64q: %s", keyOf(flag.Name), v.text, strings.TrimPrefix(err.Error(), "--"+flag.Name+": "))
				return
			}
			f.flags[flag.Name] = v
		}
	}
	root.Mapping(keys)
	return f, nil
}

// keyOf returns the key of a flag.
func keyOf(flag string) string { return strings.ReplaceAll(flag, "-", "_") }

// accepts reports why flag can not have a value.
func accepts(flag *kong.Flag, text string) error {
	if flag.Enum != "" && !flag.EnumMap()[text] {
		return fmt.Errorf("use %s", strings.Join(flag.EnumSlice(), ", "))
	}
	scratch := reflect.New(flag.Target.Type()).Elem()
	return flag.Parse(kong.ScanFromTokens(kong.Token{Type: kong.FlagValueToken, Value: text}), scratch)
}

// BeforeResolve reads the file of --config, so that flags that are set neither
// on the command line nor in the environment have their values from it; and
// those it does not set from the variables of Envoy's service, if they count.
func (c *serveCmd) BeforeResolve(ctx *kong.Context, trace *kong.Path) error {
	c.flags = trace.Command.Flags
	at := slices.IndexFunc(c.flags, func(f *kong.Flag) bool { return f.Name == "config" })
	if name, _ := ctx.FlagValue(c.flags[at]).(string); name != "" {
		var err error
		if c.file, err = readConfigFile(name, c.flags); err != nil {
			return err
		}
	}
	if os.Getenv("RUNTIME_ROOT") != "" { // a PORT or a LOG_LEVEL alone may be somebody else's
		c.envoy = readEnvoyEnvironment(os.LookupEnv)
	}
	ctx.AddResolver(kong.ResolverFunc(func(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
		if inEnvironment(flag) {
			return nil, nil //nolint:nilnil // that is how a resolver says that it has none
		}
		if c.file != nil {
			if v, ok := c.file.flags[flag.Name]; ok {
				return v.text, nil
			}
		}
		if c.envoy != nil {
			if text, ok := c.envoy.flags[flag.Name]; ok {
				return text, nil
			}
		}
		return nil, nil //nolint:nilnil // likewise
	}))
	return nil
}

func inEnvironment(flag *kong.Flag) bool {
	return slices.ContainsFunc(flag.Envs, func(name string) bool { _, ok := os.LookupEnv(name); return ok })
}

// A flagError says what is wrong with the value of a flag.
type flagError struct {
	flag    string
	problem string // begins with the value, if there is one
}

// Error names the flag as on the command line.
func (e flagError) Error() string { return "--" + e.flag + " " + e.problem }

// A configuration is what may change while the daemon runs.
type configuration struct {
	server   *server.Config
	version  string
	warnings []string
}

// warn logs what has no effect.
func (c *configuration) warn(logger *slog.Logger) {
	for _, w := range c.warnings {
		logger.Warn("in the configuration", "warning", w)
	}
}

// configuration returns what the files configure, and says all that is wrong:
// with the flags, each where its value is from, and with the files.
func (c *serveCmd) configuration() (*configuration, error) {
	var wrong []error
	for _, e := range c.validate() {
		if c.file != nil {
			if v, ok := c.file.flags[e.flag]; ok {
				v.node.Problem("%s %s", keyOf(e.flag), e.problem)
				continue
			}
		}
		wrong = append(wrong, e)
	}
	config := &configuration{server: &server.Config{}}
	versions := sha256.New()
	if c.file != nil {
		config.server.Policies = policy.Read(c.file.namespaces, c.MaxLogCount)
		config.server.Text = c.file.namespaces.String()
		versions.Write(c.file.data)
		wrong = append(wrong, c.file.file.Err())
	}
	if c.envoy != nil {
		wrong = append(wrong, c.envoy.wrong...)
		for _, w := range c.envoy.warnings {
			config.warnings = append(config.warnings, "the environment variable "+w+" has no effect here")
		}
	}
	if c.Envoy.ConfigDir != "" {
		files, err := readEnvoyFiles(c.Envoy.ConfigDir)
		wrong = append(wrong, err)
		reader := c.envoyReader()
		for _, f := range files {
			fmt.Fprintf(versions, "%s %d ", f.name, len(f.data))
			versions.Write(f.data)
			file, root := yamlfile.Parse(f.name, f.data)
			reader.Read(f.name, root)
			wrong = append(wrong, file.Err())
		}
		if err == nil && len(files) == 0 {
			config.warnings = append(config.warnings, "there is no *.yaml file in "+c.Envoy.ConfigDir)
		}
		config.server.Envoy = reader.Config
		config.warnings = append(config.warnings, reader.Warnings...)
	}
	config.version = hex.EncodeToString(versions.Sum(nil)[:6])
	return config, errors.Join(wrong...)
}

// configDirs lists the directories where a change may be one of configuration.
// There are none if nothing is configured by files.
func (c *serveCmd) configDirs() []string {
	var dirs []string
	if c.Config != "" {
		dirs = append(dirs, filepath.Dir(c.Config))
	}
	if dir := c.Envoy.ConfigDir; dir != "" {
		dirs = append(dirs, dir, filepath.Dir(dir))
		if root := os.Getenv("RUNTIME_ROOT"); root != "" {
			dirs = append(dirs, filepath.Dir(filepath.Clean(root))) // where a link to another version is put
		}
	}
	slices.Sort(dirs)
	return slices.Compact(dirs)
}

// reload reads the files anew, and returns their version and, unless that is
// seen, what puts them in force on s.
func (c *serveCmd) reload(seen string, s *server.Server, logger *slog.Logger) (version string, apply func(), err error) {
	now := *c
	if c.Config != "" {
		if now.file, err = readConfigFile(c.Config, c.flags); err != nil {
			return "", nil, err
		}
		if len(bytes.TrimSpace(now.file.data)) == 0 { // whoever writes it may have got no further yet
			return "", nil, fmt.Errorf("%s is empty; to configure nothing, have it say \"namespaces: {}\"", c.Config)
		}
	}
	config, err := now.configuration()
	if err != nil || config.version == seen {
		return config.version, nil, err
	}
	return config.version, func() {
		s.SetConfig(config.server)
		config.warn(logger)
		for _, flag := range c.flags {
			if c.file != nil && c.file.flags[flag.Name].text != now.file.flags[flag.Name].text {
				logger.Warn("this change of the configuration needs a restart", "key", keyOf(flag.Name))
			}
		}
	}, nil
}

// AfterApply notes which flags were set: on the command line, in the
// environment or in the file.
func (c *serveCmd) AfterApply(ctx *kong.Context) error { //nolint:unparam // kong wants an error
	for _, p := range ctx.Path {
		if p.Flag != nil {
			c.given = append(c.given, p.Flag.Name)
		}
	}
	for _, flag := range c.flags {
		if inEnvironment(flag) {
			c.given = append(c.given, flag.Name)
		}
	}
	return nil
}

// warnOfIdle logs what was set and has no effect: flags of stores that are not
// used, and environment variables that no flag has.
func (c *serveCmd) warnOfIdle(logger *slog.Logger) {
	for _, name := range c.given {
		for _, other := range []string{"redis", "memcached"} {
			if c.Store != other && strings.HasPrefix(name, other+"-") {
				logger.Warn("a flag has no effect with this store", "flag", "--"+name, "store", c.Store)
			}
		}
	}
	for _, variable := range os.Environ() {
		name, _, _ := strings.Cut(variable, "=")
		known := slices.ContainsFunc(c.flags, func(f *kong.Flag) bool { return slices.Contains(f.Envs, name) })
		if !known && strings.HasPrefix(name, envPrefix+"_") && !ofKubernetes.MatchString(name) {
			logger.Warn("an environment variable is of no flag, and so has no effect; see ratelimitd serve --help", "variable", name)
		}
	}
}

// ofKubernetes matches the variables that Kubernetes sets in each container for
// a service that is called ratelimitd.
var ofKubernetes = regexp.MustCompile(`_(SERVICE_HOST|SERVICE_PORT(_.*)?|PORT(_\d+_(TCP|UDP|SCTP)(_.*)?)?)$`)
