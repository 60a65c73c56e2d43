package main

import (
	"context"
	"fmt"
	"io"
)

type validateCmd struct {
	Files []string `arg:"" type:"path" name:"file" help:"The files to check, as --config takes them."`
}

// Help is shown by "ratelimitd validate --help".
func (validateCmd) Help() string {
	return `Example:
  ratelimitd validate ratelimitd.yaml
Each file is read as "ratelimitd serve --config=FILE" would, with the same
environment; nothing is started. All that is wrong is printed on standard error,
as file:line:column, and the exit status is then 1.`
}

// Run checks the files.
func (v *validateCmd) Run(ctx context.Context, out io.Writer, errs stderrWriter) error {
	var result error
	for _, name := range v.Files {
		var c cli
		_, err := newParser(ctx, out, errs, &c).Parse([]string{"serve", "--config", name})
		if err == nil {
			_, err = c.Serve.policies()
		}
		if err != nil {
			fmt.Fprintln(errs, err)
			result = errNo
			continue
		}
		fmt.Fprintln(out, name+": ok")
	}
	return result
}
