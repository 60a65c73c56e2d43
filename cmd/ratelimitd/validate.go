package main

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/ratelimitd/ratelimitd/internal/policy/envoy"
	"github.com/ratelimitd/ratelimitd/internal/yamlfile"
)

type validateCmd struct {
	Files []string `arg:"" type:"path" name:"file" help:"The files to check: as --config takes them, or, if they name a domain, those of --envoy-config-dir. A directory stands for such files in it."`
}

// Help is shown by "ratelimitd validate --help".
func (validateCmd) Help() string {
	return `Examples:
  ratelimitd validate ratelimitd.yaml
  ratelimitd validate envoy-config/
Each file is read as "ratelimitd serve" would, with the same environment; nothing
is started. All that is wrong is printed on standard error, as file:line:column,
and the exit status is then 1.`
}

// Run checks the files.
func (v *validateCmd) Run(ctx context.Context, out io.Writer, errs stderrWriter) error {
	var result error
	say := func(name string, warnings []string, err error) {
		for _, w := range warnings {
			fmt.Fprintln(errs, "warning:", w)
		}
		if err != nil {
			fmt.Fprintln(errs, err)
			result = errNo
			return
		}
		fmt.Fprintln(out, name+": ok")
	}
	var ofEnvoy *envoy.Reader // one for all, as no two files have one domain
	for _, name := range v.Files {
		var c cli
		parser := newParser(ctx, out, errs, &c)
		files, isEnvoy, err := envoyFiles(name)
		if err == nil && !isEnvoy {
			if _, err = parser.Parse([]string{"serve", "--config", name}); err == nil {
				_, err = c.Serve.configuration()
			}
		}
		if err != nil || !isEnvoy {
			say(name, nil, err)
			continue
		}
		if ofEnvoy == nil {
			if _, err := parser.Parse([]string{"serve"}); err != nil {
				return err
			}
			ofEnvoy = c.Serve.envoyReader()
		}
		for _, f := range files {
			ofEnvoy.Warnings = nil
			file, root := yamlfile.Parse(f.name, f.data)
			ofEnvoy.Read(f.name, root)
			say(f.name, ofEnvoy.Warnings, file.Err())
		}
	}
	return result
}

// envoyFiles returns the files that name stands for, if they are of Envoy's
// kind: all in a directory are, and otherwise one that has a domain.
func envoyFiles(name string) (files []sourceFile, ofEnvoy bool, err error) {
	if info, err := os.Stat(name); err == nil && info.IsDir() {
		files, err := readEnvoyFiles(name)
		if err == nil && len(files) == 0 {
			err = fmt.Errorf("%s: no *.yaml file is in it", name)
		}
		return files, true, err
	}
	data, err := os.ReadFile(name) //nolint:gosec // the user names it
	if err != nil {
		return nil, false, err
	}
	_, root := yamlfile.Parse(name, data)
	return []sourceFile{{name, data}}, root.Has("domain"), nil
}
