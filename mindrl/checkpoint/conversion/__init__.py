"""Conversion without a model.

`convert`                        what a user asks for: what is read, what goes with it, where the result lies
`hf_to_mcore`, `mcore_to_hf`,
`from_fp8`                       plan every byte range
`engine`                         proves the plan and carries it out: `workers` write files, `copying` fills records, `fp8`
                                 multiplies by scales
`partial`, `identity`            an unfinished result, and whether it may be gone on with
`manifest`                       checksums of everything written
`estimate`, `progress`           what it will take, and how far it is
"""
