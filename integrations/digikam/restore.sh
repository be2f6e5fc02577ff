unjpeg restore $INPUT -o $OUTPUT --overwrite --quiet || exit 127
