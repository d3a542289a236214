"""Pictures, charts and tables of searches: nothing here needs torch, and only notebooks' widgets need a browser.

`palette` colours, `layout` positions, `svg` and `dot` drawings as files, `tables` numbers out of records and events,
`figures` charts; `ribbon.js` and `ribbon.css` draw a cell that moves, in pages and notebooks alike.
"""
