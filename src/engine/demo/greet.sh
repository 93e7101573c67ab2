#!/bin/sh
if [ -n "$2" ]; then
  echo "$2, $1"
else
  echo "Hello, ${1:-world}"
fi
